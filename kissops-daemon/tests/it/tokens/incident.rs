//! Tokens in wrong hands, and who has seen which (VLT-13, VLT-14).

use std::{
    path::Path,
    process::{Command, Output},
};

use kissops_core::store::{
    self, Actor, AuditOutcome, AuditQuery, AuditRecord, AuditVerdict, StoreOptions, StoreUrl,
    verify_audit,
};
use kissops_mock_provider::{Endpoint, Reply, Scope, Secrets, Step};

use super::{Stage, built};

fn run(stage: &Stage, kissops: &Path, arguments: &str) -> (Option<i32>, String) {
    let mut command = Command::new(kissops);
    command.args(arguments.split(' ')).arg("--config").arg(stage.site.path("kissops.toml"));
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (status.code(), text)
}

/// The latest entry of the audit about an action; the whole of it must be as it was written.
fn audited(stage: &Stage, action: &str) -> AuditRecord {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let file = format!("sqlite:{}", stage.site.path("state/kissops.db").display());
        let url = StoreUrl::parse(&file, Path::new("/")).unwrap();
        let store = store::open(&url, StoreOptions::default()).await.unwrap();
        let verdict = verify_audit(&*store, None).await.unwrap();
        assert!(matches!(verdict, AuditVerdict::Intact { .. }), "{verdict:?}");
        let action = Some(action.to_owned());
        let query = AuditQuery { action: action.clone(), limit: 1, ..AuditQuery::default() };
        store.audit(query).await.unwrap().pop().unwrap_or_else(|| panic!("no {action:?}"))
    })
}

fn lives(stage: &Stage, account: &str) -> bool {
    let account = stage.mock.account(account, Secrets::Hidden).unwrap();
    account.grants.iter().any(|grant| {
        grant.refresh.as_ref().is_some_and(|token| token.live)
            || grant.access.iter().any(|token| token.live)
    })
}

/// It does not run, and a new authorization alone does not bring it back.
#[track_caller]
fn is_down(stage: &Stage, name: &str) {
    stage.site.until(name, |status| status["desired"] == "stopped" && status["pid"].is_null());
}

#[test]
fn an_incident_ends_tokens_everywhere_and_says_what_is_left_to_do() {
    let Some(kissops) = built("kissops") else { return };
    let bot = |name: &str, account: &str| {
        format!(
            "[instance.{name}]\ncommand = [\"sleep\", \"1000\"]\ntokens = [\"mock/{account}\"]\n"
        )
    };
    let bots = ["ann", "bob", "cleo"].map(|name| bot(name, name)).concat();
    let other = "[instance.other]\ncommand = [\"sleep\", \"1000\"]\n";
    let stage = Stage::started(&format!("{bots}{other}"), &["ann", "bob", "cleo"]);
    stage.site.until_all_ready();
    let other = stage.site.bot("other");

    let token = stage.mock.import().into_iter().find(|row| row.account == "ann").unwrap();
    let (code, shown) = run(&stage, &kissops, "token show mock ann --reveal --yes");
    assert!(code == Some(0) && shown.starts_with(&format!("{}\n", token.access_token)), "{shown}");
    let seen = audited(&stage, "token.reveal").entry;
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!((seen.actor, seen.target.as_str()), (Actor::Uid(uid), "grant mock/ann"));
    assert_eq!(seen.outcome, AuditOutcome::Done);

    // One account, whose provider does not answer: gone here all the same, and said not to be revoked.
    let failing = Step::new(Reply::ServerError).on(Endpoint::Revoke).times(100);
    stage.mock.script(&Scope::Account("cleo".into()), vec![failing]).unwrap();
    let (code, told) =
        run(&stage, &kissops, "incident revoke --provider mock --account cleo --reason lost --yes");
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("NOT REVOKED  mock/cleo") && told.contains("1. revoke mock/cleo"),
        "{told}"
    );
    assert!(lives(&stage, "cleo") && lives(&stage, "ann") && lives(&stage, "bob"));
    is_down(&stage, "cleo");
    assert_eq!(stage.grant("cleo")["state"], "revoked");
    assert_eq!(stage.site.status("ann")["state"], "running");

    // All of the provider's.
    let (code, told) = run(&stage, &kissops, "incident revoke --provider mock --reason leak --yes");
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("make a new client secret") && told.contains("stopped  ann"), "{told}");
    for account in ["ann", "bob"] {
        assert!(!lives(&stage, account), "{account} is dead at the provider");
        assert_eq!(stage.grant(account)["state"], "revoked");
        is_down(&stage, account);
        let (status, _) =
            stage.site.ask("POST", &format!("/v1/tokens/mock/{account}/reveal"), None);
        assert!(status >= 400, "shredded");
    }
    assert_eq!(stage.site.bot("other"), other, "who had none of them runs on");
    assert_eq!(audited(&stage, "incident.revoke").entry.target, "provider mock");
    assert_eq!(stage.told("incident.revoked").len(), 2);
    let again = run(&stage, &kissops, "incident revoke --provider mock --yes");
    assert_eq!(again.0, Some(4), "nothing is left to be revoked: {}", again.1);
}
