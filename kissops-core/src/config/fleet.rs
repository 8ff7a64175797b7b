//! The fleet as a whole: who requires whom, and that nobody requires himself.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    definition::{Draft, Wish},
    reader::Pass,
    suggest::{nearest, shown},
};
use crate::{id::InstanceName, supervisor::Definition};

/// What a requirement means that names a member which a template does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// It may be one that was added at run time, which the file alone cannot know.
    Warning,
    /// All members are known.
    Error,
}

/// Resolves the requirements of `drafts` and looks for cycles. Errors go to `pass`.
///
/// `named` are instances that the file has; one of them without a draft has errors of its own, which are enough.
pub(super) fn link(
    pass: &Pass<'_>,
    mut drafts: Vec<Draft>,
    templates: &BTreeSet<&str>,
    named: &BTreeSet<&str>,
    absent: Absent,
) -> Vec<Definition> {
    drafts.sort_by(|a, b| a.definition.name.cmp(&b.definition.name));
    let fleet = Fleet::new(&drafts, templates, named, absent);
    let mut edges: Vec<Vec<Edge>> = Vec::with_capacity(drafts.len());
    let mut linked = Vec::with_capacity(drafts.len());
    for draft in &drafts {
        let own = &draft.definition.name;
        let requires = fleet.resolve_all(pass, own, &draft.requires);
        let after = fleet.resolve_all(pass, own, &draft.after);
        linked.push((names(&drafts, &requires), names(&drafts, &after)));
        edges.push(requires.into_iter().chain(after).collect());
    }
    if let Some(cycle) = find_cycle(&edges) {
        report_cycle(pass, &drafts, &edges, &cycle);
    }
    let definitions = drafts.into_iter().zip(linked).map(|(draft, (requires, after))| {
        let mut definition = draft.definition;
        definition.requires = requires;
        definition.after = after;
        definition
    });
    definitions.collect()
}

/// From an instance to one that it waits for, and the word in the file that says so.
struct Edge<'a> {
    to: usize,
    wish: &'a Wish,
}

fn names(drafts: &[Draft], edges: &[Edge<'_>]) -> Vec<InstanceName> {
    let names: BTreeSet<_> = edges
        .iter()
        .filter_map(|edge| drafts.get(edge.to))
        .map(|d| d.definition.name.clone())
        .collect();
    names.into_iter().collect()
}

struct Fleet<'a> {
    index: HashMap<&'a str, usize>,
    members: BTreeMap<&'a str, Vec<usize>>,
    named: &'a BTreeSet<&'a str>,
    absent: Absent,
}

impl<'a> Fleet<'a> {
    fn new(
        drafts: &'a [Draft],
        templates: &BTreeSet<&'a str>,
        named: &'a BTreeSet<&'a str>,
        absent: Absent,
    ) -> Self {
        let mut index = HashMap::new();
        let mut members: BTreeMap<&str, Vec<usize>> =
            templates.iter().map(|name| (*name, Vec::new())).collect();
        for (at, draft) in drafts.iter().enumerate() {
            let name = &draft.definition.name;
            index.insert(name.as_str(), at);
            if let Some(of) = name.template().and_then(|template| members.get_mut(template)) {
                of.push(at);
            }
        }
        Self { index, members, named, absent }
    }

    fn resolve_all<'w>(
        &self,
        pass: &Pass<'_>,
        own: &InstanceName,
        wishes: &'w [Wish],
    ) -> Vec<Edge<'w>> {
        let edges = |wish: &'w Wish| {
            self.resolve(pass, own, wish).into_iter().map(move |to| Edge { to, wish })
        };
        wishes.iter().flat_map(edges).collect()
    }

    fn resolve(&self, pass: &Pass<'_>, own: &InstanceName, wish: &Wish) -> Vec<usize> {
        let word = wish.word.as_str();
        let fail = |message: String, help: String| {
            pass.error(wish.at, &wish.key, message, help);
            Vec::new()
        };
        if word == own.as_str() {
            return fail(format!("`{word}` requires itself"), "remove it here".into());
        }
        if let Some(at) = self.index.get(word) {
            return vec![*at];
        }
        let itself = self.index.get(own.as_str()).copied();
        if let Some(members) = self.members.get(word) {
            return members.iter().copied().filter(|at| Some(*at) != itself).collect();
        }
        if word.contains(['*', '?', '[']) {
            return self.matching(word).map_or_else(
                || fail(format!("`{}` matches no instance", shown(word)), String::new()),
                |found| found.into_iter().filter(|at| Some(*at) != itself).collect(),
            );
        }
        if self.named.contains(word) {
            return Vec::new();
        }
        let of_template =
            word.split_once('@').is_some_and(|(base, _)| self.members.contains_key(base));
        let known: Vec<&str> = self.index.keys().chain(self.members.keys()).copied().collect();
        let mut help = match nearest(word, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "name an [instance.…], a [template.…] or a member of one".to_owned(),
        };
        let message = format!("there is no instance `{}`", shown(word));
        if of_template && self.absent == Absent::Warning {
            help.push_str(" members that were added at run time are not known here");
            pass.warn(wish.at, &wish.key, message, help);
            return Vec::new();
        }
        fail(message, help)
    }

    /// The instances that a pattern matches; `None` if it cannot ever match one.
    fn matching(&self, pattern: &str) -> Option<Vec<usize>> {
        let glob = globset::Glob::new(pattern).ok()?.compile_matcher();
        let mut found: Vec<usize> =
            self.index.iter().filter(|(name, _)| glob.is_match(name)).map(|(_, at)| *at).collect();
        found.sort_unstable();
        // A template without members yet is no mistake.
        let open = pattern.split_once('@').is_some_and(|(base, _)| self.members.contains_key(base));
        (open || !found.is_empty()).then_some(found)
    }
}

/// How far the search for a cycle is with an instance.
#[derive(Clone, Copy, PartialEq)]
enum Mark {
    New,
    Open,
    Done,
}

/// The first cycle, as indices in the order in which each waits for the next.
///
/// Without recursion: a chain of ten thousand instances must not overflow the stack.
fn find_cycle(edges: &[Vec<Edge<'_>>]) -> Option<Vec<usize>> {
    let mut marks = vec![Mark::New; edges.len()];
    for start in 0..edges.len() {
        if marks.get(start) != Some(&Mark::New) {
            continue;
        }
        // Each entry: an instance and which of its edges comes next.
        let mut path: Vec<(usize, usize)> = vec![(start, 0)];
        set(&mut marks, start, Mark::Open);
        while let Some((at, next)) = path.last_mut() {
            let at = *at;
            let edge = edges.get(at).and_then(|edges| edges.get(*next));
            *next += 1;
            let Some(to) = edge.map(|edge| edge.to) else {
                set(&mut marks, at, Mark::Done);
                path.pop();
                continue;
            };
            match marks.get(to) {
                Some(Mark::New) => {
                    set(&mut marks, to, Mark::Open);
                    path.push((to, 0));
                }
                Some(Mark::Open) => {
                    let cycle = path.iter().map(|(at, _)| *at).skip_while(|at| *at != to);
                    return Some(cycle.collect());
                }
                _ => {}
            }
        }
    }
    None
}

fn set(marks: &mut [Mark], at: usize, mark: Mark) {
    if let Some(slot) = marks.get_mut(at) {
        *slot = mark;
    }
}

fn report_cycle(pass: &Pass<'_>, drafts: &[Draft], edges: &[Vec<Edge<'_>>], cycle: &[usize]) {
    let mut cycle = cycle.to_vec();
    // It begins at the smallest name, so that it reads the same every time; drafts are in the order of names.
    let smallest =
        cycle.iter().enumerate().min_by_key(|(_, at)| **at).map_or(0, |(index, _)| index);
    cycle.rotate_left(smallest);
    let first = cycle.first().copied();
    let second = cycle.get(1).copied().or(first);
    let words: Vec<&str> = cycle
        .iter()
        .copied()
        .chain(first)
        .filter_map(|at| drafts.get(at))
        .map(|draft| draft.definition.name.as_str())
        .collect();
    let edge = first
        .and_then(|at| edges.get(at))
        .and_then(|edges| edges.iter().find(|edge| Some(edge.to) == second));
    if let Some(Edge { wish, .. }) = edge {
        pass.error(
            wish.at,
            &wish.key,
            format!("is part of a cycle: {}", words.join(" → ")),
            "none of them could ever start: remove one of these requirements",
        );
    }
}
