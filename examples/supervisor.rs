//! A supervisor in twenty lines: keeps two programs alive until Ctrl-C, or for so many seconds.
//!
//! `cargo run -p kissops-examples --example supervisor [SECONDS]`

use std::{error::Error, sync::Arc, time::Duration};

use kissops_core::{
    agent::shutdown_signal,
    store::sqlite::{SqliteOptions, SqliteStore},
    supervisor::{Definition, Leave, Supervisor},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(u64::MAX), |text| text.parse())?;
    let shutdown = shutdown_signal()?;
    let store = SqliteStore::open(".kissops/bots.db", SqliteOptions::default())?;
    let supervisor = Supervisor::builder(Arc::new(store)).log_dir(".kissops/logs").build()?;
    let mut events = supervisor.subscribe();
    let steady = Definition::new("steady", ["sh", "-c", "while sleep 1; do date; done"])?;
    let moody = Definition::new("moody", ["sh", "-c", "sleep 2; echo 'not today'; exit 1"])?;
    supervisor.begin(vec![steady, moody]).await?;
    let tell = async {
        while let Ok(record) = events.recv().await {
            let name = record.event.instance.as_ref().map_or("-", |name| name.as_str());
            println!("{name}: {}", record.event.reason);
        }
    };
    tokio::select! {
        () = shutdown => {}
        () = tell => {}
        () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
    }
    supervisor.shutdown(Leave::Stopped).await;
    Ok(())
}
