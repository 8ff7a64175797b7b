//! `kissops instance add`, `remove`, `list`.

use std::{collections::BTreeMap, io::Write as _, time::Duration};

use kissops_core::{
    control::{InstanceDetail, MemberRequest, Members},
    id::InstanceName,
};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    args::Instance,
    client::{Client, escape},
    context::{Context, out, print_json},
    exit::{Exit, Failure},
    render::{
        clean, human,
        table::{Column, Table},
        width,
    },
};

/// So long a removed member may take to stop, as with `stop`.
const GONE: Duration = Duration::from_mins(2);
/// How often it is looked for meanwhile.
const POLL: Duration = Duration::from_millis(50);

pub(crate) async fn run(context: &Context, args: Instance) -> Result<Exit, Failure> {
    match args {
        Instance::Add { name, vars } => add(context, &name, &vars).await,
        Instance::Remove { name } => remove(context, &name).await,
        Instance::List => list(context).await,
    }
}

async fn add(context: &Context, name: &str, vars: &[String]) -> Result<Exit, Failure> {
    let name = parse(name)?;
    if name.template().is_none() {
        let message = format!("`{name}` is not like twitch@el_serda");
        return Err(Failure::usage(message, "give the template's name, an @ and the member's"));
    }
    let mut pairs = BTreeMap::new();
    for var in vars {
        let Some((key, value)) = var.split_once('=') else {
            let message = format!("`{}` is not like key=value", clean::text(var));
            return Err(Failure::usage(message, "write --var key=value"));
        };
        pairs.insert(key.to_owned(), value.to_owned());
    }
    let request = MemberRequest { name, vars: pairs };
    let added: MemberRequest = Client::new(context)?.post("/v1/members", &request, None).await?;
    if context.json {
        print_json(&added)?;
    } else {
        context.say(&format!("{} was added; see kissops status {0}", added.name));
    }
    Ok(Exit::Ok)
}

async fn remove(context: &Context, name: &str) -> Result<Exit, Failure> {
    let name = parse(name)?;
    context.confirm(&format!("Stop {name} and forget it?"))?;
    let client = Client::new(context)?;
    client.delete(&format!("/v1/members/{}", escape(name.as_str()))).await?;
    until_gone(&client, &name).await?;
    if context.json {
        print_json(&json!({ "name": name, "removed": true }))?;
    } else {
        context.say(&format!("{name} was removed"));
    }
    Ok(Exit::Ok)
}

/// As `stop` does, returns when its processes have ended: who adds it again at once would find the name taken.
async fn until_gone(client: &Client, name: &InstanceName) -> Result<(), Failure> {
    let path = format!("/v1/instances/{}", escape(name.as_str()));
    let until = Instant::now() + GONE;
    loop {
        match client.get::<InstanceDetail>(&path).await {
            Err(failure) if failure.is("not_found") => return Ok(()),
            Err(failure) => return Err(failure),
            Ok(_) if Instant::now() >= until => {
                let message = format!("{name} is forgotten, but its processes still stop");
                return Err(Failure::new("timeout", message, format!("kissops describe {name}")));
            }
            Ok(_) => tokio::time::sleep(POLL).await,
        }
    }
}

fn parse(name: &str) -> Result<InstanceName, Failure> {
    InstanceName::new(name)
        .map_err(|err| Failure::usage(err.to_string(), "give a name like twitch@el_serda"))
}

const COLUMNS: [Column; 3] =
    [Column::Left("NAME"), Column::Left("ADDED (UTC)"), Column::Rest("VARS")];

async fn list(context: &Context) -> Result<Exit, Failure> {
    let members: Members = Client::new(context)?.get("/v1/members").await?;
    if context.json {
        print_json(&members)?;
        return Ok(Exit::Ok);
    }
    if members.members.is_empty() {
        context.say("no members; kissops instance add TEMPLATE@MEMBER adds one");
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&COLUMNS);
    for member in &members.members {
        let vars: Vec<String> = member.vars.iter().map(|(k, v)| format!("{k}={v}")).collect();
        table.row(vec![
            member.name.as_str().into(),
            member.added_at.map_or_else(|| "in the file".to_owned(), human::time).into(),
            clean::text(&vars.join(" ")).into_owned().into(),
        ]);
    }
    let mut out = out();
    for line in table.lines(width(), context.style()) {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush().map(|()| Exit::Ok)?)
}
