//! User and group names to numbers, read where they stand: this process has not to link the name service.

use std::process::{Command, Stdio};

use crate::{
    Error, Result,
    supervisor::{Credentials, sys},
};

/// The numbers of a user, its group and its further groups, by name or number.
///
/// Without `group` it is the user's own. Looks into `/etc/passwd` and `/etc/group`, then asks `getent` for users that
/// are kept elsewhere (LDAP, systemd). May block for as long as that takes: to be called off the runtime.
///
/// # Errors
/// [`NotFound`](Error::NotFound) names the user or group that there is not; [`Io`](Error::Io) if the files cannot be read.
pub fn credentials(user: &str, group: Option<&str>) -> Result<Credentials> {
    let passwd = read("/etc/passwd")?;
    let groups = read("/etc/group")?;
    resolve(user, group, &passwd, &groups, getent)
}

/// Who an instance runs as, and what its environment says of that.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) credentials: Credentials,
    /// Name, home and shell, where the user has an entry.
    login: Option<[String; 3]>,
}

impl Account {
    /// `None` where neither is set. A group alone goes with the user that we are.
    pub(super) fn find(user: Option<&str>, group: Option<&str>) -> Result<Option<Self>> {
        if user.is_none() && group.is_none() {
            return Ok(None);
        }
        let ours = rustix::process::geteuid().as_raw().to_string();
        let name = user.unwrap_or(&ours);
        let credentials = credentials(name, group)?;
        let passwd = read("/etc/passwd")?;
        let line =
            entry(&passwd, name).map(str::to_owned).or_else(|| getent(&["passwd", "--", name]));
        let login = line.as_deref().and_then(|line| {
            let mut fields = line.trim_end().split(':').map(str::to_owned);
            Some([fields.next()?, fields.nth(4)?, fields.next()?])
        });
        Ok(Some(Self { credentials, login }))
    }

    /// `USER`, `LOGNAME`, `HOME` and `SHELL`.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.login.iter().flat_map(|[name, home, shell]| {
            [("USER", name.as_str()), ("LOGNAME", name), ("HOME", home), ("SHELL", shell)]
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
        })
    }
}

/// Makes this whole process another user's, for good, after giving it `folders`. To be called before any other thread
/// is there, and only by a program that is nobody's guest.
///
/// # Errors
/// [`NotFound`](Error::NotFound) names the user or group that there is not; [`Io`](Error::Io) if we may not do that.
pub fn drop_privileges(
    user: Option<&str>,
    group: Option<&str>,
    folders: &[&std::path::Path],
) -> Result<()> {
    let Some(account) = Account::find(user, group)? else { return Ok(()) };
    let wanted = &account.credentials;
    for folder in folders {
        std::os::unix::fs::chown(folder, Some(wanted.uid), Some(wanted.gid))
            .map_err(Error::io(format!("give {} to uid {}", folder.display(), wanted.uid)))?;
    }
    sys::become_for_good(wanted).map_err(Error::io(format!(
        "become uid {} for good; start as root, or leave daemon.user out",
        wanted.uid
    )))
}

fn read(path: &str) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(format!("read {path}")))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Asks the name service for one entry, or for a user's groups.
fn getent(arguments: &[&str]) -> Option<String> {
    let output = Command::new("getent")
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

fn resolve(
    user: &str,
    group: Option<&str>,
    passwd: &str,
    groups: &str,
    ask: impl Fn(&[&str]) -> Option<String>,
) -> Result<Credentials> {
    let found = entry(passwd, user).map(str::to_owned).or_else(|| ask(&["passwd", "--", user]));
    let fields: Option<(String, u32, u32)> = found.as_deref().and_then(|line| {
        let mut fields = line.trim_end().split(':');
        let name = fields.next()?.to_owned();
        Some((name, fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    let group = group
        .map(|name| group_number(name, groups, &ask).ok_or_else(|| missing("group", name)))
        .transpose()?;
    let Some((name, uid, own)) = fields else {
        // A number needs no entry, but then there is no group to go with it.
        let uid = user.parse().map_err(|_| missing("user", user))?;
        let gid = group.ok_or_else(|| Error::NotFound {
            what: format!("entry of user {user} that would name its group: set `group` too"),
        })?;
        return Ok(Credentials { uid, gid, groups: vec![gid] });
    };
    let gid = group.unwrap_or(own);
    let mut all = vec![gid];
    all.extend(member_of(&name, groups));
    if entry(passwd, user).is_none()
        && let Some(line) = ask(&["initgroups", "--", &name])
    {
        all.extend(line.split_whitespace().skip(1).filter_map(|number| number.parse::<u32>().ok()));
    }
    all.push(own);
    let mut seen = std::collections::HashSet::new();
    all.retain(|gid| seen.insert(*gid));
    Ok(Credentials { uid, gid, groups: all })
}

fn missing(kind: &str, name: &str) -> Error {
    Error::NotFound { what: format!("{kind} `{name}` on this machine") }
}

/// The line whose first or third field is `wanted`: a name goes before a number that reads the same.
fn entry<'a>(text: &'a str, wanted: &str) -> Option<&'a str> {
    let field = |at: usize| move |line: &&'a str| line.split(':').nth(at) == Some(wanted);
    let lines = || text.lines().filter(|line| !line.starts_with(['#', '+', '-']));
    let number = wanted.parse::<u32>().is_ok();
    lines().find(field(0)).or_else(|| lines().find(field(2)).filter(|_| number))
}

fn group_number(name: &str, groups: &str, ask: impl Fn(&[&str]) -> Option<String>) -> Option<u32> {
    let number = |line: &str| line.split(':').nth(2)?.parse().ok();
    if let Some(gid) = entry(groups, name).and_then(number) {
        return Some(gid);
    }
    ask(&["group", "--", name]).as_deref().and_then(number).or_else(|| name.parse().ok())
}

fn member_of(user: &str, groups: &str) -> Vec<u32> {
    let member = |line: &&str| {
        let members = line.split(':').nth(3).unwrap_or_default();
        members.split(',').any(|member| member.trim() == user)
    };
    groups.lines().filter(member).filter_map(|line| line.split(':').nth(2)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbot:x:1001:1002::/home/bot:/bin/sh\n";
    const GROUPS: &str = "root:x:0:\nbot:x:1002:\naudio:x:29:alice,bot\nweb:x:33:\n";

    fn numbers(user: &str, group: Option<&str>) -> Result<Credentials> {
        resolve(user, group, PASSWD, GROUPS, |_| None)
    }

    #[test]
    fn names_and_numbers_are_found_with_all_groups() {
        let bot = Credentials { uid: 1001, gid: 1002, groups: vec![1002, 29] };
        assert_eq!(numbers("bot", None).unwrap(), bot);
        assert_eq!(numbers("1001", None).unwrap(), bot);
        let web = Credentials { uid: 1001, gid: 33, groups: vec![33, 29, 1002] };
        assert_eq!(numbers("bot", Some("web")).unwrap(), web);
        let unnamed = Credentials { uid: 7, gid: 8, groups: vec![8] };
        assert_eq!(numbers("7", Some("8")).unwrap(), unnamed);
    }

    #[test]
    fn who_is_missing_is_named() {
        let message = |user, group| numbers(user, group).unwrap_err().to_string();
        assert_eq!(message("bob", None), "there is no user `bob` on this machine");
        assert_eq!(message("bot", Some("wheel")), "there is no group `wheel` on this machine");
        assert!(message("7", None).contains("set `group`"));
    }

    #[test]
    fn the_name_service_is_asked_for_those_who_are_not_in_the_files() {
        let ask = |arguments: &[&str]| match arguments {
            ["passwd", "--", "ldap"] => Some("ldap:*:5000:5001::/:/bin/sh\n".to_owned()),
            ["initgroups", "--", "ldap"] => Some("ldap                  5001 5002\n".to_owned()),
            _ => None,
        };
        let found = resolve("ldap", None, PASSWD, GROUPS, ask).unwrap();
        assert_eq!(found, Credentials { uid: 5000, gid: 5001, groups: vec![5001, 5002] });
    }
}
