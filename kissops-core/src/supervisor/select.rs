//! Targets: how people name one or many instances.

use globset::{Glob, GlobMatcher};

use crate::{Error, Result, id::InstanceName};

/// What people write to name instances: `web`, `twitch@*`, `tag:chat`, or a template's name for all its members.
///
/// ```
/// use kissops_core::supervisor::select::{Candidate, select};
/// let names = ["web", "twitch@a", "twitch@b"].map(|name| name.parse().unwrap());
/// let fleet: Vec<Candidate> = names.iter().map(|name| Candidate { name, tags: &[] }).collect();
/// let chosen = select(&["twitch".to_owned()], &fleet)?;
/// assert_eq!(chosen.len(), 2);
/// # Ok::<(), kissops_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub enum Target {
    /// An instance, or a template and thereby all its members.
    Name(String),
    /// A pattern of names: `*`, `?`, `[ab]`, `{a,b}`.
    Glob(GlobMatcher),
    /// All instances with this tag.
    Tag(String),
}

/// An instance that a target may mean.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a InstanceName,
    /// Its tags.
    pub tags: &'a [String],
}

impl Target {
    /// Reads a target.
    ///
    /// # Errors
    /// [`InvalidConfig`](Error::InvalidConfig) for an empty one or a pattern that is none.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong =
            |rule: String| Error::invalid(format!("target `{}`", text.escape_debug()), rule);
        if let Some(tag) = text.strip_prefix("tag:") {
            if tag.is_empty() {
                return Err(wrong("must name a tag, as in tag:chat".to_owned()));
            }
            return Ok(Self::Tag(tag.to_owned()));
        }
        if text.contains(['*', '?', '[', '{']) {
            let glob = Glob::new(text)
                .map_err(|err| wrong(format!("is not a valid pattern: {}", err.kind())))?;
            return Ok(Self::Glob(glob.compile_matcher()));
        }
        if text.is_empty() {
            return Err(wrong("must not be empty".to_owned()));
        }
        Ok(Self::Name(text.to_owned()))
    }

    /// It means `candidate`.
    #[must_use]
    pub fn matches(&self, candidate: Candidate<'_>) -> bool {
        match self {
            Self::Name(name) => {
                candidate.name.as_str() == name || candidate.name.template() == Some(name)
            }
            Self::Glob(glob) => glob.is_match(candidate.name.as_str()),
            Self::Tag(tag) => candidate.tags.contains(tag),
        }
    }
}

/// The instances that `targets` mean, each once, in the order of `candidates`.
///
/// # Errors
/// [`NotFound`](Error::NotFound) with the nearest name for a target that means none: a typing error shall not pass
/// for "nothing to do". [`InvalidConfig`](Error::InvalidConfig) as in [`Target::parse`].
pub fn select(targets: &[String], candidates: &[Candidate<'_>]) -> Result<Vec<InstanceName>> {
    let mut chosen = vec![false; candidates.len()];
    for text in targets {
        let target = Target::parse(text)?;
        let mut found = false;
        for (candidate, chosen) in candidates.iter().zip(&mut chosen) {
            if target.matches(*candidate) {
                found = true;
                *chosen = true;
            }
        }
        if !found {
            return Err(unknown(text, &target, candidates));
        }
    }
    let picked = candidates.iter().zip(chosen).filter(|(_, chosen)| *chosen);
    Ok(picked.map(|(candidate, _)| candidate.name.clone()).collect())
}

fn unknown(text: &str, target: &Target, candidates: &[Candidate<'_>]) -> Error {
    let shown = text.escape_debug();
    let what = match target {
        Target::Glob(_) => format!("instance that matches `{shown}`"),
        Target::Tag(tag) => {
            let tags = candidates.iter().flat_map(|c| c.tags).map(String::as_str);
            format!("instance with the tag `{}`{}", tag.escape_debug(), hint(tag, tags))
        }
        Target::Name(name) => {
            let names = candidates
                .iter()
                .flat_map(|c| [Some(c.name.as_str()), c.name.template()])
                .flatten();
            format!("instance `{shown}`{}", hint(name, names))
        }
    };
    Error::NotFound { what }
}

/// ` (did you mean …?)`, if something is near enough to be meant.
fn hint<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = known
        .map(|name| (strsim::damerau_levenshtein(wanted, name), name))
        .filter(|(distance, name)| *distance <= wanted.len().max(name.len()) / 3 + 1)
        .min();
    near.map_or_else(String::new, |(_, name)| format!(" (did you mean `{name}`?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(targets: &[&str]) -> Result<Vec<String>> {
        let fleet: Vec<(InstanceName, Vec<String>)> =
            [("web", vec!["http"]), ("twitch@a", vec!["chat"]), ("twitch@b", vec!["chat", "http"])]
                .into_iter()
                .map(|(name, tags)| {
                    (name.parse().unwrap(), tags.into_iter().map(str::to_owned).collect())
                })
                .collect();
        let candidates: Vec<_> =
            fleet.iter().map(|(name, tags)| Candidate { name, tags }).collect();
        let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
        Ok(select(&targets, &candidates)?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_way_to_name_instances() {
        for (targets, names) in [
            (&["web"][..], &["web"][..]),
            (&["twitch@*"], &["twitch@a", "twitch@b"]),
            (&["twitch"], &["twitch@a", "twitch@b"]),
            (&["tag:http"], &["web", "twitch@b"]),
            (&["*", "web"], &["web", "twitch@a", "twitch@b"]),
            (&["twitch@b", "web", "web"], &["web", "twitch@b"]),
            (&["{web,twitch@a}"], &["web", "twitch@a"]),
            (&[], &[]),
        ] {
            assert_eq!(chosen(targets).unwrap(), names, "{targets:?}");
        }
    }

    #[test]
    fn what_means_nothing_is_an_error_with_the_nearest_name() {
        for (target, message) in [
            ("wbe", "there is no instance `wbe` (did you mean `web`?)"),
            ("twich", "there is no instance `twich` (did you mean `twitch`?)"),
            ("tag:chta", "there is no instance with the tag `chta` (did you mean `chat`?)"),
            ("zzzzzzzz", "there is no instance `zzzzzzzz`"),
            ("x*", "there is no instance that matches `x*`"),
            ("", "target `` must not be empty"),
            ("tag:", "target `tag:` must name a tag, as in tag:chat"),
        ] {
            assert_eq!(chosen(&["web", target]).unwrap_err().to_string(), message);
        }
        assert!(chosen(&["[a"]).unwrap_err().to_string().contains("not a valid pattern"));
    }
}
