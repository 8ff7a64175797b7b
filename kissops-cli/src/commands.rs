//! One file per verb.

mod action;
mod check;
mod client;
mod completions;
mod crashes;
mod db;
mod describe;
mod doctor;
mod events;
mod incident;
mod init;
mod instance;
mod logs;
mod man;
mod reload;
mod secret;
mod status;
mod store;
mod token;
mod top;
mod up;
mod vault;

use crate::{
    args::Command,
    context::Context,
    exit::{Exit, Failure},
};

pub(crate) async fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    match command {
        Command::Status(args) => status::run(context, &args).await,
        Command::Top(args) => top::run(context, &args).await,
        Command::Start(args) => action::start(context, args).await,
        Command::Stop(args) => action::stop(context, args).await,
        Command::Restart(args) => action::restart(context, args).await,
        Command::Reset(args) => action::reset(context, args).await,
        Command::Reload(args) => reload::run(context, args).await,
        Command::Signal(args) => action::signal(context, args).await,
        Command::Crashes(args) => crashes::run(context, &args).await,
        Command::Events(args) => events::run(context, &args).await,
        Command::Describe(args) => describe::run(context, &args).await,
        Command::Instance(args) => instance::run(context, args).await,
        Command::Token(command) => token::run(context, command).await,
        Command::Secret(command) => secret::run(context, command).await,
        Command::Vault(command) => vault::run(context, command).await,
        Command::Incident(command) => incident::run(context, command).await,
        Command::Db(command) => db::run(context, command).await,
        Command::Doctor => doctor::run(context).await,
        Command::Completions(args) => completions::run(&args),
        Command::Client(args) => client::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Init(args) => init::run(context, &args),
        Command::Check(args) => check::run(context, &args),
        Command::Up(args) => up::run(context, &args).await,
        Command::Store(args) => store::run(context, args).await,
        Command::Logs(args) => logs::run(context, &args).await,
    }
}
