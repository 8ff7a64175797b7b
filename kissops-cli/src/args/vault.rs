//! The arguments of `token`, `secret`, `vault` and `incident`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use kissops_core::HumanDuration;

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

#[derive(Debug, Subcommand)]
pub(crate) enum Secret {
    /// List secrets with their age and when they should be replaced; never their values
    #[command(after_help = "Example:\n  kissops secret list")]
    List,
    /// Keep a secret, or a new value of one that is there; the value comes from stdin or is typed
    #[command(
        after_help = "Examples:\n  kissops secret set discord_webhook --kind webhook_url\n  kissops secret set api_key --max-age 90d < key.txt\n\nThe value is never an argument: every user of a machine can read those. The configuration says { secret = \"NAME\" }."
    )]
    Set(SecretSet),
    /// Make a secret at random, of 256 bits or more
    #[command(
        after_help = "Example:\n  kissops secret generate session_key --max-age 90d\n\nIt is not printed: kissops secret show NAME does that."
    )]
    Generate(SecretGenerate),
    /// Replace a secret by one made at random
    #[command(
        after_help = "Example:\n  kissops secret rotate session_key\n\nFor one that comes from elsewhere: kissops secret set NAME."
    )]
    Rotate(SecretNamed),
    /// Set after how long a secret should be replaced
    #[command(
        after_help = "Examples:\n  kissops secret age api_key 365d\n  kissops secret age api_key never"
    )]
    Age(SecretAge),
    /// Show a secret in clear text; asks first, or say --yes
    #[command(
        after_help = "Example:\n  kissops secret show session_key\n\nWho sees a secret is recorded in the audit, before it is shown."
    )]
    Show(SecretNamed),
    /// Remove a secret
    #[command(after_help = "Example:\n  kissops secret remove old_webhook")]
    Remove(SecretNamed),
}

#[derive(Args, Debug)]
pub(crate) struct SecretNamed {
    /// Its name in the configuration
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct SecretSet {
    /// What the configuration calls it
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// What it is, such as `bot_token`, `webhook_url`, `api_key`, `password`
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
    /// Replace it after so long, such as 90d
    #[arg(long, value_name = "SPAN")]
    pub(crate) max_age: Option<HumanDuration>,
}

#[derive(Args, Debug)]
pub(crate) struct SecretGenerate {
    /// What the configuration calls it
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// What it is, such as `api_key`, `password`
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
    /// What it is made of [default: letters, and digits]
    #[arg(long, value_name = "FORM", value_parser = ["letters", "hex", "base64"])]
    pub(crate) form: Option<String>,
    /// Replace it after so long, such as 90d
    #[arg(long, value_name = "SPAN")]
    pub(crate) max_age: Option<HumanDuration>,
}

#[derive(Args, Debug)]
pub(crate) struct SecretAge {
    /// Its name in the configuration
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Such as 90d, 180d, 365d; or `never`
    #[arg(value_name = "SPAN")]
    pub(crate) age: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Vault {
    /// Show whether the vault is open, by which keys it is sealed, and what is in it
    #[command(after_help = "Example:\n  kissops vault status")]
    Status,
    /// Make a new key for a vault, and print it; needs no daemon
    #[command(
        after_help = "Examples:\n  kissops vault key --file /etc/kissops/vault.key\n  echo \"KISSOPS_SECRET_KEY=$(kissops vault key)\" >> .env\n\nWho loses the key loses what is in the vault. Keep a copy away from the store and its backups."
    )]
    Key(VaultKey),
    /// Seal everything anew, under a new key or the one there is
    #[command(
        after_help = "Examples:\n  kissops vault key --file new.key && kissops vault rotate --to-file new.key\n  NEW=… kissops vault rotate --to-env NEW\n  kissops vault rotate\n\nMay be interrupted at any moment and run again; bots get their tokens meanwhile."
    )]
    Rotate(VaultRotate),
    /// Use grants of a restored store: only once the store that they come from is not used any more
    #[command(
        after_help = "Examples:\n  kissops vault adopt twitch el_serda\n  kissops vault adopt twitch\n  kissops vault adopt --all"
    )]
    Adopt(VaultAdopt),
    /// Take tokens over that a predecessor has kept as Fernet tokens in an SQLite file
    #[command(
        after_help = "Examples:\n  kissops vault import-fernet --database bot.db --table tokens --account login --access access_token \\\n    --refresh refresh_token --provider twitch --key-env FERNET_KEY --dry-run\n  … --key-file passphrase.txt --derive pbkdf2 --salt pepper --iterations 480000\n\nThe file is only read. A row that does not verify is reported and skipped, and nothing that is in the vault is\noverwritten: broken off, it is continued by running it again. Stop the predecessor first: of two programs that refresh\none token, one loses it."
    )]
    ImportFernet(FernetImport),
}

#[derive(Args, Debug)]
pub(crate) struct FernetImport {
    /// The SQLite file
    #[arg(long, value_name = "FILE")]
    pub(crate) database: PathBuf,
    /// The table or view
    #[arg(long, value_name = "NAME")]
    pub(crate) table: String,
    /// The column that says whose tokens they are
    #[arg(long, value_name = "COLUMN")]
    pub(crate) account: String,
    /// The column with access tokens
    #[arg(long, value_name = "COLUMN")]
    pub(crate) access: String,
    /// The column with refresh tokens
    #[arg(long, value_name = "COLUMN")]
    pub(crate) refresh: Option<String>,
    /// The column that says when access tokens expire: seconds, milliseconds, or a date and time
    #[arg(long, value_name = "COLUMN")]
    pub(crate) expires: Option<String>,
    /// The column with scopes: an array in JSON, or words
    #[arg(long, value_name = "COLUMN")]
    pub(crate) scopes: Option<String>,
    /// The column with the account's number, for rows without a name
    #[arg(long, value_name = "COLUMN")]
    pub(crate) user_id: Option<String>,
    /// Of which provider in the configuration they are
    #[arg(long, value_name = "PROVIDER")]
    pub(crate) provider: String,
    /// The Fernet key, or what it is derived from, is in this variable; several are tried in turn
    #[arg(long, value_name = "NAME", required_unless_present = "key_file")]
    pub(crate) key_env: Vec<String>,
    /// It is in this file, of mode 600
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Vec<PathBuf>,
    /// How the Fernet key comes from that
    #[arg(long, value_name = "METHOD", value_parser = ["none", "sha256", "pbkdf2"], default_value = "none")]
    pub(crate) derive: String,
    /// For pbkdf2
    #[arg(long, value_name = "TEXT", required_if_eq("derive", "pbkdf2"))]
    pub(crate) salt: Option<String>,
    /// For pbkdf2
    #[arg(long, value_name = "NUMBER", required_if_eq("derive", "pbkdf2"))]
    pub(crate) iterations: Option<u32>,
    /// Read and verify everything, take nothing over
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args, Debug)]
pub(crate) struct VaultKey {
    /// Write it to this file, which must not be there, with mode 600
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct VaultRotate {
    /// The new key is in this file, of mode 600
    #[arg(long, value_name = "FILE", conflicts_with = "to_env")]
    pub(crate) to_file: Option<PathBuf>,
    /// The new key is in this variable
    #[arg(long, value_name = "NAME")]
    pub(crate) to_env: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct VaultAdopt {
    /// The provider's name in the configuration
    #[arg(value_name = "PROVIDER", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) provider: Option<String>,
    /// Only this account's grant
    #[arg(value_name = "ACCOUNT", conflicts_with = "all")]
    pub(crate) account: Option<String>,
    /// The grants of every provider
    #[arg(long)]
    pub(crate) all: bool,
}
