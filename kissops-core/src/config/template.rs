//! [`Template`]: one definition for many instances.

use std::{cell::RefCell, collections::BTreeMap, collections::BTreeSet, fmt, sync::Arc};

use super::{
    ConfigErrors,
    definition::{self, Draft},
    node::{Place, Table, Value},
    reader::{Item, Pass, Section, Shared},
    suggest::{nearest, shown},
};
use crate::{id::InstanceName, supervisor::Definition};

/// `[template.NAME]`: one definition that serves many instances, named `NAME@member`.
#[derive(Clone)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// What `{vars.x}` stands for where a member does not say.
    pub vars: BTreeMap<String, String>,
    /// After defaults, without what is the template's own.
    table: Table,
    at: Place,
    shared: Arc<Shared>,
}

/// A member that the file names.
pub(super) struct FileMember {
    pub(super) name: InstanceName,
    pub(super) vars: BTreeMap<String, String>,
    pub(super) at: Place,
    pub(super) key: String,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Variables may hold secrets.
        f.debug_struct("Template").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Template {
    /// The definition of `member`, with `vars` over the template's own.
    ///
    /// Requirements that name templates or patterns are left out here: only
    /// [`Config::definitions`](super::Config::definitions) knows the whole fleet.
    ///
    /// # Errors
    /// Everything that is wrong with the result: a placeholder without a value, a variable that the template does not
    /// have, a value that has become impossible, a `member` of another template.
    pub fn member(
        &self,
        member: &InstanceName,
        vars: &BTreeMap<String, String>,
    ) -> Result<Definition, ConfigErrors> {
        let pass = Pass::new(&self.shared);
        let draft = self.draft(&pass, member, vars);
        let errors = pass.errors.into_inner();
        match draft {
            Some(mut draft) if errors.is_empty() => {
                let names = |wishes: &[definition::Wish]| {
                    wishes.iter().filter_map(|wish| InstanceName::new(&wish.word).ok()).collect()
                };
                draft.definition.requires = names(&draft.requires);
                draft.definition.after = names(&draft.after);
                Ok(draft.definition)
            }
            _ => Err(ConfigErrors::new(errors, Arc::clone(&self.shared.sources))),
        }
    }

    /// The same with its requirements as words.
    pub(super) fn draft(
        &self,
        pass: &Pass<'_>,
        member: &InstanceName,
        vars: &BTreeMap<String, String>,
    ) -> Option<Draft> {
        let key = format!("template.{}", self.name);
        if member.template() != Some(self.name.as_str()) {
            let help = format!("its members are named {}@…", self.name);
            pass.error(self.at, &key, format!("`{member}` is not a member of it"), help);
            return None;
        }
        let mut all = self.vars.clone();
        all.extend(vars.iter().map(|(key, value)| (key.clone(), value.clone())));
        let scope = Scope::new(member.member(), all, Missing::Error);
        let draft = self.read(pass, member, &scope);
        let used = scope.used.borrow();
        for name in vars.keys() {
            if !self.vars.contains_key(name) && !used.contains(name) {
                let known: Vec<&str> = self
                    .vars
                    .keys()
                    .map(String::as_str)
                    .chain(used.iter().map(String::as_str))
                    .collect();
                let help = nearest(name, &known)
                    .map_or_else(String::new, |near| format!("did you mean `{near}`?"));
                let message = format!("has no variable `{}`", shown(name));
                pass.error(self.at, &key, message, help);
            }
        }
        draft
    }

    /// Reports what is wrong with it whatever its members are.
    fn check(&self, pass: &Pass<'_>) {
        if let Ok(sample) = InstanceName::new(&format!("{}@member", self.name)) {
            let scope = Scope::new("member", self.vars.clone(), Missing::Filled);
            let _ = self.read(pass, &sample, &scope);
        }
    }

    fn read(&self, pass: &Pass<'_>, member: &InstanceName, scope: &Scope) -> Option<Draft> {
        let path = format!("template.{}", self.name);
        let mut section = Section::new(pass, &self.table, self.at, path);
        section.scope = Some(scope);
        definition::read(section, member)
    }
}

/// Reads `[template.NAME]` over `defaults`; checks it also where it has no member yet.
pub(super) fn read(
    name: &str,
    item: &Item<'_>,
    defaults: Option<&Table>,
    shared: &Arc<Shared>,
) -> Option<(Template, Vec<FileMember>)> {
    if InstanceName::new(&format!("{name}@member")).is_err() {
        return item.fail("is not a name of a template", "use letters, digits, _, - and . only");
    }
    let section = item.section("write [template.NAME] with its keys below")?;
    let vars = section.get("vars").and_then(|item| vars(&item)).unwrap_or_default();
    let members = section.get("instances").and_then(|item| members(&item, name));
    let mut own = section.table.clone();
    own.0.remove("vars");
    own.0.remove("instances");
    let table = definition::inherit(defaults, &own);
    let template =
        Template { name: name.to_owned(), vars, table, at: section.at, shared: Arc::clone(shared) };
    template.check(item.pass);
    Some((template, members.unwrap_or_default()))
}

fn members(item: &Item<'_>, template: &str) -> Option<Vec<FileMember>> {
    const FORM: &str =
        "write instances = [\"one\", { name = \"two\", vars = { port = \"8001\" } }]";
    let mut members = Vec::new();
    for entry in item.array(FORM)? {
        let (word, vars) = if let Value::Table(_) = entry.node.value {
            let section = entry.section(FORM)?;
            let name = section.get("name").map(|item| item.string().map(str::to_owned));
            if name.is_none() {
                section.missing("name", FORM);
            }
            let vars = section.get("vars").and_then(|item| vars(&item)).unwrap_or_default();
            section.finish();
            (name.flatten(), vars)
        } else {
            (entry.string().map(str::to_owned), BTreeMap::new())
        };
        let Some(word) = word else { continue };
        let word = word.strip_prefix(&format!("{template}@")).unwrap_or(&word);
        match InstanceName::new(&format!("{template}@{word}")) {
            Ok(name) => {
                members.push(FileMember { name, vars, at: entry.node.at, key: entry.path.clone() });
            }
            Err(_) => {
                let _ = entry.fail::<()>(
                    format!("`{}` is not a name of a member", shown(word)),
                    "1 to 64 letters, digits, _, - and ., not beginning with - or .",
                );
            }
        }
    }
    Some(members)
}

fn vars(item: &Item<'_>) -> Option<BTreeMap<String, String>> {
    let section = item.section("write vars = { port = \"8000\" }")?;
    let mut vars = BTreeMap::new();
    for (key, value) in section.items() {
        let text = match &value.node.value {
            Value::Integer(Some(number), _) => Some(number.to_string()),
            _ => value.string().map(str::to_owned),
        };
        if !is_var(key) {
            let _ = value.fail::<()>("is not a name of a variable", "use letters, digits, _ and -");
        } else if let Some(text) = text {
            vars.insert(key.to_owned(), text);
        }
    }
    Some(vars)
}

fn is_var(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// What becomes of a variable that has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Error,
    /// A `1`, which is valid as a port, a path and a number: members are still to give theirs.
    Filled,
}

/// What the placeholders of one member stand for.
#[derive(Debug)]
pub(super) struct Scope {
    name: String,
    vars: BTreeMap<String, String>,
    missing: Missing,
    used: RefCell<BTreeSet<String>>,
}

impl Scope {
    fn new(name: &str, vars: BTreeMap<String, String>, missing: Missing) -> Self {
        Self { name: name.to_owned(), vars, missing, used: RefCell::default() }
    }

    /// `text` with `{name}` and `{vars.x}` filled in, `{{` and `}}` as braces; or message and help.
    pub(super) fn fill(&self, text: &str) -> Result<String, (String, String)> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            filled.push_str(before);
            if brace.starts_with("{{") || brace.starts_with("}}") {
                filled.push_str(&brace[..1]);
                rest = &brace[2..];
                continue;
            }
            let Some((word, after)) =
                brace.strip_prefix('{').and_then(|inside| inside.split_once('}'))
            else {
                return Err((
                    "has a brace without its partner".into(),
                    "write {{ or }} for a brace".into(),
                ));
            };
            filled.push_str(&self.value(word)?);
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }

    fn value(&self, word: &str) -> Result<String, (String, String)> {
        if word == "name" {
            return Ok(self.name.clone());
        }
        let Some(var) = word.strip_prefix("vars.").filter(|var| is_var(var)) else {
            let help = match nearest(word, &["name", "vars."]) {
                Some("name") => "did you mean {name}?".to_owned(),
                _ if self.vars.contains_key(word) => format!("did you mean {{vars.{word}}}?"),
                _ => "{name} and {vars.x} are known; write {{ and }} for braces".to_owned(),
            };
            return Err((format!("`{{{}}}` is not a known placeholder", shown(word)), help));
        };
        self.used.borrow_mut().insert(var.to_owned());
        match (self.vars.get(var), self.missing) {
            (Some(value), _) => Ok(value.clone()),
            (None, Missing::Filled) => Ok("1".to_owned()),
            (None, Missing::Error) => {
                let known: Vec<&str> = self.vars.keys().map(String::as_str).collect();
                let help = nearest(var, &known).map_or_else(
                    || format!("give it to the member, or all members: vars = {{ {var} = \"…\" }}"),
                    |near| format!("did you mean {{vars.{near}}}?"),
                );
                Err((format!("`{{vars.{var}}}` has no value for member `{}`", self.name), help))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_fill_and_braces_escape() {
        let vars = BTreeMap::from([("port".to_owned(), "81".to_owned())]);
        let scope = Scope::new("ann", vars, Missing::Error);
        assert_eq!(scope.fill("{name}:{vars.port}/{{x}}").unwrap(), "ann:81/{x}");
        assert_eq!(scope.fill("{nam}").unwrap_err().1, "did you mean {name}?");
        assert_eq!(scope.fill("{port}").unwrap_err().1, "did you mean {vars.port}?");
        assert_eq!(scope.fill("{vars.prt}").unwrap_err().1, "did you mean {vars.port}?");
        for bad in ["{", "}", "a{name", "{}", "é{ü}"] {
            assert!(scope.fill(bad).is_err(), "{bad}");
        }
    }
}
