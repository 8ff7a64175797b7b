//! `kissops token`.

mod authorize;
pub(super) mod import;
mod list;
mod show;

use std::collections::BTreeSet;

use kissops_core::{
    id::InstanceName,
    vault::admin::{BindRequest, Grant, RevokeRequest, RevokeResult},
};

use crate::{
    args::{GrantNamed, Token, TokenBind, TokenRevoke},
    client::escape,
    context::{Context, print_json},
    desk::Desk,
    exit::{Exit, Failure},
    render::{clean, human},
};

pub(crate) async fn run(context: &Context, command: Token) -> Result<Exit, Failure> {
    let desk = Desk::open(context).await?;
    let done = match command {
        Token::List(args) => list::run(context, &desk, args).await,
        Token::Show(args) => show::run(context, &desk, &args).await,
        Token::Authorize(args) => authorize::run(context, &desk, args).await,
        Token::Import(args) => import::run(context, &desk, &args).await,
        Token::Refresh(grant) => refresh(context, &desk, &grant).await,
        Token::Bind(args) => bind(context, &desk, &args).await,
        Token::Revoke(args) => revoke(context, &desk, args).await,
        Token::Remove(grant) => remove(context, &desk, &grant).await,
    };
    desk.close().await;
    done
}

impl GrantNamed {
    /// The path of what concerns this grant.
    fn path(&self, what: &str) -> String {
        let slash = if what.is_empty() { "" } else { "/" };
        format!("/v1/tokens/{}/{}{slash}{what}", escape(&self.provider), escape(&self.account))
    }

    fn shown(&self) -> String {
        clean::text(&format!("{}/{}", self.provider, self.account)).into_owned()
    }
}

async fn refresh(context: &Context, desk: &Desk, named: &GrantNamed) -> Result<Exit, Failure> {
    let grant: Grant = desk.post(&named.path("refresh"), &()).await?;
    if context.json {
        print_json(&grant)?;
    } else {
        let until = grant.expires_at.map(human::time);
        let until = until.map_or_else(String::new, |at| format!("; its token expires {at} UTC"));
        context.say(&format!("{} was refreshed{until}", named.shown()));
    }
    Ok(Exit::Ok)
}

async fn bind(context: &Context, desk: &Desk, args: &TokenBind) -> Result<Exit, Failure> {
    let request = BindRequest { instances: instances(&args.instances)? };
    let grant: Grant = desk.put(&args.grant.path("instances"), &request).await?;
    if context.json {
        print_json(&grant)?;
    } else {
        let names: Vec<&str> = grant.instances.iter().map(InstanceName::as_str).collect();
        let whom = if names.is_empty() { "no instance".to_owned() } else { names.join(", ") };
        context.say(&format!("{} is handed to {whom}", args.grant.shown()));
    }
    Ok(Exit::Ok)
}

fn instances(names: &[String]) -> Result<BTreeSet<InstanceName>, Failure> {
    let parse = |name: &String| {
        InstanceName::new(name)
            .map_err(|err| Failure::usage(err.to_string(), "give a name like twitch@el_serda"))
    };
    names.iter().map(parse).collect()
}

async fn revoke(context: &Context, desk: &Desk, args: TokenRevoke) -> Result<Exit, Failure> {
    let shown = args.grant.shown();
    context.confirm(&format!("Revoke {shown} at its provider, and remove its tokens?"))?;
    let request = RevokeRequest { reason: args.reason };
    let done: RevokeResult = desk.post(&args.grant.path("revoke"), &request).await?;
    let exit = if done.ok { Exit::Ok } else { Exit::Failed };
    if context.json {
        print_json(&done)?;
    } else {
        match &done.error {
            None => context.say(&format!("{shown} was revoked; its tokens are gone")),
            Some(why) => context.say(&format!(
                "{shown}: its tokens are gone here, but the provider has not confirmed it: {}\n\
                 help: revoke it there, as the account's owner",
                clean::text(why)
            )),
        }
    }
    Ok(exit)
}

async fn remove(context: &Context, desk: &Desk, named: &GrantNamed) -> Result<Exit, Failure> {
    let shown = named.shown();
    context.confirm(&format!("Remove {shown} here? It stays valid at the provider."))?;
    desk.delete(&named.path("")).await?;
    if context.json {
        let (provider, account) = (&named.provider, &named.account);
        print_json(
            &serde_json::json!({ "provider": provider, "account": account, "removed": true }),
        )?;
    } else {
        context.say(&format!("{shown} was removed"));
    }
    Ok(Exit::Ok)
}
