//! Vaults in processes that are killed, that stand still for too long, or that run on a copy of the store: no used token is
//! presented again, and nothing is lost in silence (VLT-7, VLT-10). The witness is the mock provider's ledger.

mod kill;
mod restored;
mod site;
mod two;
mod worker;
