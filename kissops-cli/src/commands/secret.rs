//! `kissops secret`.

use std::{io::Write as _, time::Duration};

use kissops_core::{
    HumanDuration, Timestamp, clock,
    vault::admin::{GenerateSecret, RevealedSecret, SecretAge, SecretList, SecretView, SetSecret},
};
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::{
    args,
    args::{Secret, SecretGenerate, SecretSet},
    client::escape,
    context::{Context, out, print_json},
    desk::Desk,
    exit::{Exit, Failure},
    prompt::{confirm_reveal, new_secret},
    render::{
        Style, clean, human,
        table::{Cell, Column, Table},
        width,
    },
};

pub(crate) async fn run(context: &Context, command: Secret) -> Result<Exit, Failure> {
    let desk = Desk::open(context).await?;
    let done = match command {
        Secret::List => list(context, &desk).await,
        Secret::Set(args) => set(context, &desk, args).await,
        Secret::Generate(args) => generate(context, &desk, args).await,
        Secret::Rotate(named) => rotate(context, &desk, &named.name).await,
        Secret::Age(args) => age(context, &desk, &args).await,
        Secret::Show(named) => show(context, &desk, &named.name).await,
        Secret::Remove(named) => remove(context, &desk, &named.name).await,
    };
    desk.close().await;
    done
}

fn path(name: &str, what: &str) -> String {
    let slash = if what.is_empty() { "" } else { "/" };
    format!("/v1/secrets/{}{slash}{what}", escape(name))
}

const COLUMNS: [Column; 6] = [
    Column::Left("NAME"),
    Column::Left("KIND"),
    Column::Right("VERSION"),
    Column::Right("AGE"),
    Column::Left("DUE"),
    Column::Rest("SAME VALUE AS"),
];

async fn list(context: &Context, desk: &Desk) -> Result<Exit, Failure> {
    let list: SecretList = desk.get("/v1/secrets").await?;
    if context.json {
        print_json(&list)?;
        return Ok(Exit::Ok);
    }
    if list.secrets.is_empty() {
        context.say("no secrets; kissops secret set NAME keeps one");
        return Ok(Exit::Ok);
    }
    let now = clock::now();
    let mut table = Table::new(&COLUMNS);
    for secret in &list.secrets {
        table.row(vec![
            secret.name.clone().into(),
            clean::text(&secret.kind).into_owned().into(),
            secret.version.to_string().into(),
            human::span(now.since(secret.changed_at).as_secs_f64()).into(),
            due(secret.due_at, now),
            Cell::painted(secret.alike.join(" "), Style::yellow),
        ]);
    }
    let mut out = out();
    for line in table.lines(width(), context.style()) {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush().map(|()| Exit::Ok)?)
}

/// From then on it is worth a thought.
const SOON: Duration = Duration::from_hours(14 * 24);

fn due(at: Option<Timestamp>, now: Timestamp) -> Cell {
    let Some(at) = at else { return "-".into() };
    if at <= now {
        return Cell::painted("overdue", Style::red);
    }
    let left = at.since(now);
    let text = format!("in {}", human::span(left.as_secs_f64()));
    if left <= SOON { Cell::painted(text, Style::yellow) } else { text.into() }
}

async fn set(context: &Context, desk: &Desk, args: SecretSet) -> Result<Exit, Failure> {
    let value = new_secret(&format!("value of {}", clean::text(&args.name)))?;
    let request = SetSecret { value: value.into(), kind: args.kind, max_age: args.max_age };
    let kept: SecretView = desk.put(&path(&args.name, ""), &request).await?;
    tell(context, &kept, "was kept")
}

async fn generate(context: &Context, desk: &Desk, args: SecretGenerate) -> Result<Exit, Failure> {
    let request = GenerateSecret { kind: args.kind, form: args.form, max_age: args.max_age };
    let made: SecretView = desk.post(&path(&args.name, "generate"), &request).await?;
    tell(context, &made, "was made")
}

async fn rotate(context: &Context, desk: &Desk, name: &str) -> Result<Exit, Failure> {
    let question = format!("Replace the value of {} by one made at random?", clean::text(name));
    context.confirm(&question)?;
    let made: SecretView = desk.post(&path(name, "rotate"), &()).await?;
    tell(context, &made, "was replaced")
}

async fn age(context: &Context, desk: &Desk, args: &args::SecretAge) -> Result<Exit, Failure> {
    let max_age =
        match args.age.as_str() {
            "never" => None,
            span => Some(span.parse::<HumanDuration>().map_err(|err| {
                Failure::usage(err.to_string(), "give a span such as 90d, or never")
            })?),
        };
    let set: SecretView = desk.put(&path(&args.name, "age"), &SecretAge { max_age }).await?;
    tell(context, &set, "has its age set")
}

fn tell(context: &Context, secret: &SecretView, done: &str) -> Result<Exit, Failure> {
    if context.json {
        print_json(secret)?;
        return Ok(Exit::Ok);
    }
    let SecretView { name, version, .. } = secret;
    context.say(&format!("{name} {done}, version {version}"));
    if let Some(at) = secret.due_at {
        context.say(&format!("to be replaced by {} UTC", human::time(at)));
    }
    if !secret.alike.is_empty() {
        context.say(&format!(
            "warning: {} has the same value: give each a value of its own",
            secret.alike.join(", ")
        ));
    }
    Ok(Exit::Ok)
}

async fn show(context: &Context, desk: &Desk, name: &str) -> Result<Exit, Failure> {
    confirm_reveal(context, &format!("Show the secret {}? It is recorded.", clean::text(name)))?;
    let secret: RevealedSecret = desk.post(&path(name, "reveal"), &()).await?;
    if context.json {
        print_json(&secret)?;
        return Ok(Exit::Ok);
    }
    let mut out = out();
    writeln!(out, "{}", secret.value.expose_secret())?;
    Ok(out.flush().map(|()| Exit::Ok)?)
}

async fn remove(context: &Context, desk: &Desk, name: &str) -> Result<Exit, Failure> {
    context.confirm(&format!("Remove the secret {}?", clean::text(name)))?;
    desk.delete(&path(name, "")).await?;
    if context.json {
        print_json(&json!({ "name": name, "removed": true }))?;
    } else {
        context.say(&format!("{} was removed", clean::text(name)));
    }
    Ok(Exit::Ok)
}
