//! `kissops-keeper`: starts the instances and keeps them while `kissopsd` comes and goes. Started by `kissopsd` only.

fn main() -> std::process::ExitCode {
    kissops_core::supervisor::keeper::run()
}
