//! The arguments of `token`, `secret`, `vault` and `incident`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// List grants: state, expiry, failures; never their tokens
    #[command(
        after_help = "Examples:\n  kissops token list\n  kissops token list --state needs_reauth --json"
    )]
    List(TokenList),
    /// Show all that is known of one grant
    #[command(
        after_help = "Examples:\n  kissops token show twitch el_serda\n  kissops token show twitch el_serda --reveal\n\nWho sees a token is recorded in the audit, before it is shown."
    )]
    Show(TokenShow),
    /// Have an account authorized: in a browser, on any device
    #[command(
        after_help = "Examples:\n  kissops token authorize twitch el_serda\n  kissops token authorize twitch app --client-credentials\n\nPrints a URL and a code, and waits. Given up here, the account's owner may still go on."
    )]
    Authorize(TokenAuthorize),
    /// Refresh a grant now
    #[command(after_help = "Example:\n  kissops token refresh twitch el_serda")]
    Refresh(GrantNamed),
    /// Take tokens over from a file
    #[command(
        after_help = "Example:\n  kissops token import --file tokens.json\n\nThe file is a list of {\"provider\",\"account\",\"access_token\",\"refresh_token\",\"expires_at\",\"scopes\"}, with mode 600.\nWorks before the first start of the daemon, too."
    )]
    Import(TokenImport),
    /// Set which instances a grant is handed to
    #[command(after_help = "Example:\n  kissops token bind twitch el_serda twitch@el_serda")]
    Bind(TokenBind),
    /// Revoke a grant at its provider, and remove its tokens here
    #[command(after_help = "Example:\n  kissops token revoke twitch el_serda")]
    Revoke(TokenRevoke),
    /// Remove a grant here, without asking the provider
    #[command(after_help = "Example:\n  kissops token remove twitch el_serda")]
    Remove(GrantNamed),
}

#[derive(Args, Debug)]
pub(crate) struct GrantNamed {
    /// The provider's name in the configuration
    #[arg(value_name = "PROVIDER")]
    pub(crate) provider: String,
    /// Whose grant
    #[arg(value_name = "ACCOUNT")]
    pub(crate) account: String,
}

#[derive(Args, Debug)]
pub(crate) struct TokenList {
    /// Only of this provider
    #[arg(long, value_name = "PROVIDER")]
    pub(crate) provider: Option<String>,
    /// Only in this state, such as `needs_reauth`
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Option<String>,
    /// Only those of this instance
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct TokenShow {
    #[command(flatten)]
    pub(crate) grant: GrantNamed,
    /// Show the access token in clear text; asks first, or say --yes
    #[arg(long)]
    pub(crate) reveal: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TokenAuthorize {
    #[command(flatten)]
    pub(crate) grant: GrantNamed,
    /// For the client itself, by its own secret
    #[arg(long, conflicts_with = "browser")]
    pub(crate) client_credentials: bool,
    /// In a browser on this machine, which comes back to a port of 127.0.0.1
    #[arg(long, conflicts_with = "no_wait")]
    pub(crate) browser: bool,
    /// What to ask for [default: what it had, or the provider's `scopes`]
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// Hand it to this instance
    #[arg(long = "instance", value_name = "NAME")]
    pub(crate) instances: Vec<String>,
    /// Print URL and code, and return
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TokenImport {
    /// The file, of mode 600; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Also in the place of grants that are there
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TokenBind {
    #[command(flatten)]
    pub(crate) grant: GrantNamed,
    /// The instances, in the place of those before; none where left out
    #[arg(value_name = "NAME")]
    pub(crate) instances: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct TokenRevoke {
    #[command(flatten)]
    pub(crate) grant: GrantNamed,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Incident {
    /// Tokens are in wrong hands: revoke them, remove them, stop who uses them
    #[command(
        after_help = "Examples:\n  kissops incident revoke --provider twitch --account el_serda\n  kissops incident revoke --provider twitch\n\nPrints what remains to be done by hand. Exit code 1 if something could not be revoked or stopped."
    )]
    Revoke(IncidentRevoke),
}

#[derive(Args, Debug)]
pub(crate) struct IncidentRevoke {
    /// The provider's name in the configuration
    #[arg(long, value_name = "PROVIDER")]
    pub(crate) provider: String,
    /// Only this account's grant [default: all of the provider]
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) account: Option<String>,
    /// What happened, for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
}
