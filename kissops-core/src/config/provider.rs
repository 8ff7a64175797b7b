//! `[vault.provider.NAME]`: a profile laid over a built-in one, and the client.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use toml::de::DeTable;

use super::{
    Environment,
    node::{Layer, Place, Table, Value},
    reader::{Item, Pass, Section, Shared},
    secret,
    source::Source,
    suggest::{nearest, shown},
    vault::{ClientId, ProviderConfig},
};
use crate::HumanDuration;
use crate::vault::{
    ClientAuth, ErrorRule, LONGEST_EXCHANGE, Meaning, Profile, PublicClient, RefreshWindow,
    RevokeToken, RotationClass, TokenAuth, Undecidable, builtin_text, safe_url,
};

const ROTATION: [(&str, RotationClass); 3] = [
    ("reusable", RotationClass::Reusable),
    ("rotating", RotationClass::Rotating),
    ("one-time", RotationClass::OneTime),
];
const CLIENT_AUTH: [(&str, ClientAuth); 4] = [
    ("body", ClientAuth::Body),
    ("basic", ClientAuth::Basic),
    ("id", ClientAuth::Id),
    ("none", ClientAuth::None),
];
const TOKEN_AUTH: [(&str, TokenAuth); 4] = [
    ("bearer", TokenAuth::Bearer),
    ("oauth", TokenAuth::OAuth),
    ("form", TokenAuth::Form),
    ("introspect", TokenAuth::Introspect),
];
const REVOKE: [(&str, RevokeToken); 3] =
    [("access", RevokeToken::Access), ("either", RevokeToken::Either), ("both", RevokeToken::Both)];
const MEANINGS: [(&str, Meaning); 4] = [
    ("retry", Meaning::Retry),
    ("terminal", Meaning::Terminal),
    ("misconfigured", Meaning::Misconfigured),
    ("unclear", Meaning::Unclear),
];
const UNDECIDABLE: [(&str, Undecidable); 2] =
    [("try", Undecidable::Try), ("flag", Undecidable::Flag)];

const SECOND: Duration = Duration::from_secs(1);

/// The built-in profile of that name.
pub(crate) fn builtin(name: &str) -> Option<Profile> {
    let text = builtin_text(name)?;
    let (table, _) = DeTable::parse_recoverable(text);
    let table = Table::from_toml(table.get_ref(), Layer::File);
    let source = Source::new(format!("{name}.toml").into(), text.to_owned());
    let environment = Environment::default();
    let shared = Shared { sources: Arc::from([source]), folder: "/".into(), environment };
    let pass = Pass::new(&shared);
    let at = Place { layer: Layer::File, offset: 0 };
    let section = Section::new(&pass, &table, at, String::new());
    let profile = profile(&section, Profile::new(""));
    section.finish();
    debug_assert!(pass.errors.borrow().is_empty(), "{:?}", pass.errors.borrow());
    Some(profile)
}

/// One provider; what is wrong with it is reported.
pub(super) fn read(name: &str, item: &Item<'_>) -> Option<ProviderConfig> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        return item.fail("is not a name of a provider", "1 to 64 letters, digits, _, - and .");
    }
    let section = item.section("write [vault.provider.NAME] with its keys below")?;
    let named = section.get("profile").and_then(|item| {
        let names = Profile::BUILTIN.map(|name| (name, name));
        item.one_of(&names)
    });
    let base = Profile::builtin(named.unwrap_or(name));
    let known = base.is_some();
    let profile = of_user(&section, base.unwrap_or_else(|| Profile::new("")));
    if !known && section.table.get("token_url").is_none() {
        let help = nearest(name, &Profile::BUILTIN).map_or_else(
            || {
                format!(
                    "built in are {}; any other needs its token_url",
                    Profile::BUILTIN.join(", ")
                )
            },
            |near| format!("did you mean [vault.provider.{near}]? any other needs its token_url"),
        );
        section.missing("token_url", &help);
    }
    let client_id = section.get("client_id");
    if client_id.is_none() {
        section.missing("client_id", "write client_id = \"…\" or { env = \"NAME\" }");
    }
    let client_id = client_id.and_then(|item| client(&item));
    let client_secret = section.get("client_secret").and_then(|item| secret::reference(&item));
    check_window(&section, &profile.refresh_at);
    section.finish();
    Some(ProviderConfig { name: name.to_owned(), profile, client_id: client_id?, client_secret })
}

fn client(item: &Item<'_>) -> Option<ClientId> {
    match &item.node.value {
        Value::Table(_) => secret::reference(item).map(ClientId::Reference),
        _ => match item.text()? {
            id if id.is_empty() => item.fail("may not be empty", ""),
            id => Some(ClientId::Plain(id)),
        },
    }
}

/// What a user's section says over `base`. What it says of all clients goes for public ones too, whatever a built-in
/// profile has for these.
fn of_user(section: &Section<'_>, mut base: Profile) -> Profile {
    let says = |key| section.table.get(key).is_some();
    let public = &mut base.public;
    public.client_auth = public.client_auth.filter(|_| !says("client_auth"));
    public.rotation = public.rotation.filter(|_| !says("rotation"));
    public.refresh_lifetime = public.refresh_lifetime.filter(|_| !says("refresh_lifetime"));
    public.refresh_idle = public.refresh_idle.filter(|_| !says("refresh_idle"));
    let mut profile = profile(section, base);
    if says("client_auth") {
        profile.public.client_auth.get_or_insert(profile.client_auth);
    }
    profile
}

/// What `section` says of a profile, over `base`.
fn profile(section: &Section<'_>, base: Profile) -> Profile {
    let insecure = section.get("insecure").and_then(|item| item.bool()).unwrap_or(base.insecure);
    let url = |key, base: Option<String>| {
        section.get(key).map_or(base, |item: Item<'_>| url(&item, insecure))
    };
    let text =
        |key, base: Option<String>| section.get(key).map_or(base, |item: Item<'_>| item.text());
    let span = |key, base: Option<Duration>| {
        section.get(key).map_or(base, |item: Item<'_>| item.duration(SECOND))
    };
    let auth = |key| section.get(key).and_then(|item: Item<'_>| item.one_of(&CLIENT_AUTH));
    let (concurrency, per_second) = rate(section, (base.concurrency, base.per_second));
    Profile {
        token_url: url("token_url", Some(base.token_url)).unwrap_or_default(),
        validate_url: url("validate_url", base.validate_url),
        validate_auth: section
            .get("validate_auth")
            .and_then(|item| item.one_of(&TOKEN_AUTH))
            .unwrap_or(base.validate_auth),
        validate_every: section
            .get("validate_every")
            .map_or(base.validate_every, |item| item.duration(60 * SECOND)),
        account: texts(section, "account", base.account),
        revoke_url: url("revoke_url", base.revoke_url),
        revoke_auth: auth("revoke_auth").or(base.revoke_auth),
        revoke_token: section
            .get("revoke_token")
            .and_then(|item| item.one_of(&REVOKE))
            .unwrap_or(base.revoke_token),
        manage_url: url("manage_url", base.manage_url),
        device_url: url("device_url", base.device_url),
        device_scopes: text("device_scopes", Some(base.device_scopes)).unwrap_or_default(),
        authorize_url: url("authorize_url", base.authorize_url),
        authorize_params: section
            .get("authorize_params")
            .and_then(|item| params(&item))
            .unwrap_or(base.authorize_params),
        redirect_url: section.get("redirect_url").map_or(base.redirect_url, |item| redirect(&item)),
        scopes: texts(section, "scopes", base.scopes),
        client_auth: auth("client_auth").unwrap_or(base.client_auth),
        rotation: rotation(section).unwrap_or(base.rotation),
        public: section
            .get("public")
            .and_then(|item| public(&item, base.public))
            .unwrap_or(base.public),
        expires_in: section
            .get("defaults")
            .and_then(|item| expires_in(&item))
            .unwrap_or(base.expires_in),
        refresh_lifetime: span("refresh_lifetime", base.refresh_lifetime),
        refresh_idle: span("refresh_idle", base.refresh_idle),
        user_agent: section.get("user_agent").map_or(base.user_agent, |item| header(&item)),
        concurrency,
        per_second,
        exchange_limit: section
            .get("exchange_limit")
            .and_then(|item| exchange_limit(&item))
            .unwrap_or(base.exchange_limit),
        settle: span("settle", None).unwrap_or(base.settle),
        refresh_at: window(section, base.refresh_at),
        undecidable: section
            .get("undecidable")
            .and_then(|item| item.one_of(&UNDECIDABLE))
            .unwrap_or(base.undecidable),
        insecure,
        errors: errors(section).into_iter().chain(base.errors).collect(),
    }
}

fn url(item: &Item<'_>, insecure: bool) -> Option<String> {
    let text = item.text()?;
    match safe_url(&text, insecure) {
        Ok(_) => Some(text),
        Err(why) => item.fail(why.rule(), "for example \"https://id.example.org/token\""),
    }
}

/// Where the browser comes back to: a port of this machine, by http.
fn redirect(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    match safe_url(&text, false) {
        Ok(url) if url.scheme() == "http" && url.port().is_some() && url.query().is_none() => {
            Some(text)
        }
        _ => item.fail(
            format!("`{}` is not an address that this machine can wait at", shown(&text)),
            "for example \"http://localhost:7789/callback\", as it is registered at the provider",
        ),
    }
}

fn header(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    if text.is_empty() || !text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return item.fail("holds what no HTTP header may", "plain letters, digits and signs");
    }
    Some(text)
}

fn texts(section: &Section<'_>, key: &'static str, base: Vec<String>) -> Vec<String> {
    section.get(key).and_then(|item| item.texts()).unwrap_or(base)
}

fn rotation(section: &Section<'_>) -> Option<RotationClass> {
    section.get("rotation").and_then(|item| item.one_of(&ROTATION))
}

fn params(item: &Item<'_>) -> Option<BTreeMap<String, String>> {
    let section = item.section("write authorize_params = { prompt = \"consent\" }")?;
    let read = section.items().map(|(key, item)| Some((key.to_owned(), item.text()?)));
    // All are read before any failure counts.
    read.collect::<Vec<_>>().into_iter().collect()
}

fn exchange_limit(item: &Item<'_>) -> Option<Duration> {
    let limit = item.duration(SECOND)?;
    if limit > LONGEST_EXCHANGE {
        let help = "a refresh has to end before the lease of the process that sends it";
        return item.fail(format!("must be at most {}", HumanDuration(LONGEST_EXCHANGE)), help);
    }
    Some(limit)
}

fn public(item: &Item<'_>, base: PublicClient) -> Option<PublicClient> {
    let section = item.section("write public = { rotation = \"one-time\" }")?;
    let span = |key| section.get(key).and_then(|item: Item<'_>| item.duration(SECOND));
    let auth = section.get("client_auth").and_then(|item| item.one_of(&CLIENT_AUTH));
    let public = PublicClient {
        client_auth: auth.or(base.client_auth),
        rotation: rotation(&section).or(base.rotation),
        refresh_lifetime: span("refresh_lifetime").or(base.refresh_lifetime),
        refresh_idle: span("refresh_idle").or(base.refresh_idle),
    };
    section.finish();
    Some(public)
}

fn expires_in(item: &Item<'_>) -> Option<Duration> {
    let section = item.section("write defaults = { expires_in = \"1h\" }")?;
    let span = section.get("expires_in").and_then(|item| item.duration(60 * SECOND));
    section.finish();
    span
}

fn rate(section: &Section<'_>, base: (usize, Option<f64>)) -> (usize, Option<f64>) {
    let Some(section) = section
        .get("rate")
        .and_then(|item| item.section("write rate = { per_second = 10, concurrency = 32 }"))
    else {
        return base;
    };
    let concurrency = section.get("concurrency").and_then(|item| item.integer(1..=10_000_u32));
    let concurrency = concurrency.and_then(|number| usize::try_from(number).ok());
    let per_second = section.get("per_second").map_or(base.1, |item| item.decimal(0.001..=1e6));
    section.finish();
    (concurrency.unwrap_or(base.0), per_second)
}

fn window(section: &Section<'_>, base: RefreshWindow) -> RefreshWindow {
    let Some(section) = section.get("refresh_at").and_then(|item| {
        item.section("write refresh_at = { from = 0.75, to = 0.85, lead = \"10m\" }")
    }) else {
        return base;
    };
    let part = |key| section.get(key).and_then(|item: Item<'_>| item.decimal(0.05..=0.99));
    let window = RefreshWindow {
        from: part("from").unwrap_or(base.from),
        to: part("to").unwrap_or(base.to),
        lead: section.get("lead").and_then(|item| item.duration(SECOND)).unwrap_or(base.lead),
    };
    section.finish();
    window
}

fn check_window(section: &Section<'_>, window: &RefreshWindow) {
    if window.from > window.to
        && let Some(item) = section.get("refresh_at")
    {
        let message = format!("begins at {}, after its end at {}", window.from, window.to);
        let _ = item.fail::<()>(message, "from is to be at most to");
    }
}

fn errors(section: &Section<'_>) -> Vec<ErrorRule> {
    const LIKE: &str = "write errors = [{ error = \"invalid_grant\", means = \"terminal\" }]";
    let items = section.get("errors").and_then(|item| item.array(LIKE)).unwrap_or_default();
    items.iter().filter_map(|item| rule(item, LIKE)).collect()
}

fn rule(item: &Item<'_>, like: &str) -> Option<ErrorRule> {
    let section = item.section(like)?;
    let text = |key| section.get(key).and_then(|item: Item<'_>| item.text());
    let status = section.get("status").and_then(|item| item.integer(100..=599_u16));
    let (error, message) = (text("error"), text("message"));
    let means = section.get("means");
    if means.is_none() {
        section.missing("means", like);
    }
    let means = means.and_then(|item| item.one_of(&MEANINGS));
    let blank = |part: &Option<String>| part.as_ref().is_none_or(|part| part.trim().is_empty());
    if section.table.get("status").is_none() && blank(&error) && blank(&message) {
        return item.fail("names neither status, error nor message", like);
    }
    section.finish();
    Some(ErrorRule { status, error, message, means: means? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlt_5_every_built_in_profile_reads_without_a_finding() {
        for name in Profile::BUILTIN {
            // The assertion that counts is in `builtin`.
            let profile = builtin(name).unwrap();
            assert!(profile.token_url.starts_with("https://"), "{name}");
            assert!(profile.urls().all(|(_, url)| safe_url(url, false).is_ok()), "{name}");
            assert!(profile.validate_url.is_some(), "{name}");
        }
        assert!(builtin("nobody").is_none());
    }
}
