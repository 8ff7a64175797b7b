//! `kissops start`, `stop`, `restart`, `reset`, `signal`, and `reload NAME`.

use std::io::Write as _;

use kissops_core::control::{Action, ActionRequest, ActionResults};

use crate::{
    args::{Act, Restart, SendSignal, Whom},
    client::Client,
    context::{Context, out, print_json},
    exit::{Exit, Failure},
    render::clean,
};

/// `restart --all` takes so many at once: a fleet that logs in within one second is locked out.
const BATCH: usize = 10;

pub(crate) async fn start(context: &Context, args: Act) -> Result<Exit, Failure> {
    send(context, request(Action::Start, args.whom)).await
}

pub(crate) async fn stop(context: &Context, args: Act) -> Result<Exit, Failure> {
    if args.whom.all {
        context.confirm("Stop every instance?")?;
    }
    send(context, request(Action::Stop, args.whom)).await
}

pub(crate) async fn reset(context: &Context, args: Act) -> Result<Exit, Failure> {
    send(context, request(Action::Reset, args.whom)).await
}

pub(crate) async fn restart(context: &Context, args: Restart) -> Result<Exit, Failure> {
    let all = args.whom.all;
    if all {
        context.confirm("Restart every instance?")?;
    }
    let mut request = request(Action::Restart, args.whom);
    request.batch = args.batch.map(|batch| usize::try_from(batch).unwrap_or(usize::MAX));
    if request.batch.is_none() && request.wait && (all || args.wait_ready) {
        request.batch = Some(BATCH);
    }
    request.wait_ready = args.wait_ready;
    send(context, request).await
}

pub(crate) async fn signal(context: &Context, args: SendSignal) -> Result<Exit, Failure> {
    let request = ActionRequest {
        signal: Some(args.signal),
        ..for_targets(Action::Signal, vec![args.target])
    };
    send(context, request).await
}

pub(crate) async fn reload(context: &Context, targets: Vec<String>) -> Result<Exit, Failure> {
    send(context, for_targets(Action::Reload, targets)).await
}

fn for_targets(action: Action, targets: Vec<String>) -> ActionRequest {
    ActionRequest {
        action,
        targets,
        all: false,
        signal: None,
        wait: false,
        timeout: None,
        batch: None,
        wait_ready: false,
    }
}

fn request(action: Action, whom: Whom) -> ActionRequest {
    ActionRequest {
        all: whom.all,
        wait: !whom.no_wait,
        timeout: Some(whom.timeout),
        ..for_targets(action, whom.targets)
    }
}

async fn send(context: &Context, request: ActionRequest) -> Result<Exit, Failure> {
    let client = Client::new(context)?;
    let answer: ActionResults = client.post("/v1/instances/actions", &request, None).await?;
    if context.json {
        print_json(&answer)?;
    } else {
        let (style, mut out) = (context.style(), out());
        let widest = answer.results.iter().map(|result| result.name.as_str().len()).max();
        for result in answer.results.iter().filter(|result| result.ok && !context.quiet) {
            let state = result.state.map(|state| style.state(state, state.as_str()));
            let state = state.unwrap_or_else(|| style.dim("gone"));
            writeln!(out, "{:<1$}  {state}", result.name, widest.unwrap_or(0))?;
        }
        out.flush()?;
        for result in &answer.results {
            let Some(error) = &result.error else { continue };
            let label = context.style_of_stderr().red("error:");
            let mut err = std::io::stderr();
            writeln!(err, "{label} {}: {}", result.name, clean::text(&error.message))?;
            if !error.help.is_empty() {
                writeln!(err, "       {}", clean::text(&error.help))?;
            }
        }
    }
    let failed = answer.results.iter().find_map(|result| result.error.as_ref());
    failed.map_or(Ok(Exit::Ok), |error| Err(Failure::Said(Exit::of(&error.code))))
}
