//! Which type each column gets, from what was declared, what is stored and what the operator said.

use super::{
    Finding, OnMismatch,
    kind::{Class, Kind, Target},
    lint::{Facts, Tallies},
    schema::{Column, Table},
    time::Unit,
};

/// What becomes of a column.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) kind: Kind,
    pub(super) target: Target,
    pub(super) misfits_are_null: bool,
    /// Why this type, where the declaration alone does not say.
    pub(super) note: Option<String>,
}

/// Chooses the types of a table and reports what does not fit.
pub(super) fn columns(
    table: &Table,
    facts: &Facts,
    citext: bool,
    rule: OnMismatch,
    findings: &mut Vec<Finding>,
) -> Vec<Choice> {
    let columns = table.columns.iter().zip(&facts.columns).enumerate();
    columns
        .map(|(at, (column, tallies))| {
            let kind = Kind::of(&column.declared);
            let natural = natural(kind, column, tallies, citext);
            let is_key = table.primary_key.contains(&at);
            let nulls = tallies.of(Class::Null);
            if is_key && nulls.count > 0 && table.rowid_key != Some(at) {
                let help =
                    "give these rows a key, or delete them: a primary key of Postgres has no NULL";
                findings.push(Finding::new(
                    table,
                    &column.name,
                    "holds NULL in the primary key",
                    nulls,
                    Err(help),
                ));
            }
            let fixed = column.not_null || is_key || column.generated;
            choose(
                table,
                column,
                kind,
                natural,
                tallies,
                if fixed { Nulls::Never } else { Nulls::Allowed },
                rule,
                findings,
            )
        })
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nulls {
    Allowed,
    Never,
}

#[expect(clippy::too_many_arguments, reason = "one decision, of which all of these are part")]
fn choose(
    table: &Table,
    column: &Column,
    kind: Kind,
    natural: Target,
    tallies: &Tallies,
    nulls: Nulls,
    rule: OnMismatch,
    findings: &mut Vec<Finding>,
) -> Choice {
    let mut choice =
        Choice { kind, target: natural, misfits_are_null: false, note: note(kind, tallies) };
    // A blob in a column of text is a slip, though its bytes may be text.
    let is_slip = |class| natural.is_text() && matches!(class, Class::BlobText);
    let misfits: Vec<(Class, _)> =
        tallies.found().filter(|(class, _)| !natural.holds(*class) || is_slip(*class)).collect();
    if misfits.is_empty() {
        return choice;
    }
    let holds_all = |target: Target| tallies.found().all(|(class, _)| target.holds(class));
    if rule == OnMismatch::Text {
        choice.target = match natural {
            Target::Numeric(Some(_)) if holds_all(Target::Numeric(None)) => Target::Numeric(None),
            Target::Citext => Target::Citext,
            _ => Target::Text,
        };
    }
    choice.misfits_are_null = rule == OnMismatch::Null && nulls == Nulls::Allowed;
    for (class, tally) in misfits {
        let outcome = match rule {
            OnMismatch::Fail => Err("mend them, or say --on-mismatch text or null"),
            OnMismatch::Text if choice.target.holds(class) => {
                Ok(format!("the column becomes {}", choice.target))
            }
            OnMismatch::Text => Err("mend them: no text can hold this"),
            OnMismatch::Null if nulls == Nulls::Never => {
                Err("mend them: NULL is not allowed there")
            }
            OnMismatch::Null => Ok("they become NULL".to_owned()),
        };
        let problem = format!("{} column holds {}", natural, class.describe());
        findings.push(Finding::new(table, &column.name, &problem, tally, outcome));
    }
    choice
}

fn natural(kind: Kind, column: &Column, tallies: &Tallies, citext: bool) -> Target {
    match kind {
        Kind::Integer => Target::Bigint,
        Kind::Boolean => Target::Boolean,
        Kind::Real => Target::Double,
        Kind::Numeric(limits) => Target::Numeric(limits),
        Kind::Text(_) if column.no_case && citext => Target::Citext,
        Kind::Text(Some(limit)) => Target::Varchar(limit),
        // Not jsonb: that would reorder keys, drop doubles and spaces, and so change what the bot reads back.
        Kind::Text(None) | Kind::Json => Target::Text,
        Kind::Blob => Target::Bytea,
        Kind::Time => Target::Timestamp(unit(tallies)),
        Kind::Open => by_content(tallies),
    }
}

/// The unit of most numbers; the rest is reported.
fn unit(tallies: &Tallies) -> Option<Unit> {
    let counts = Unit::ALL.into_iter().map(|unit| (tallies.of(Class::Number(unit)).count, unit));
    counts.filter(|(count, _)| *count > 0).max_by_key(|(count, _)| *count).map(|(_, unit)| unit)
}

fn by_content(tallies: &Tallies) -> Target {
    let holds_all = |target: &Target| tallies.found().all(|(class, _)| target.holds(class));
    let has = |class| tallies.of(class).count > 0;
    if tallies.found().next().is_none() {
        return Target::Text;
    }
    if has(Class::BlobBinary) && !has(Class::Text) {
        return Target::Bytea;
    }
    if has(Class::BlobText) && !has(Class::Text) && holds_all(&Target::Bytea) {
        return Target::Bytea;
    }
    [Target::Bigint, Target::Double].into_iter().find(holds_all).unwrap_or(Target::Text)
}

/// What was found in a column whose declaration leaves it open.
fn note(kind: Kind, tallies: &Tallies) -> Option<String> {
    if !matches!(kind, Kind::Open | Kind::Time) {
        return None;
    }
    let parts: Vec<String> = tallies
        .found()
        .map(|(class, tally)| format!("{} {}", tally.count, class.describe()))
        .collect();
    match (kind, tallies.of(Class::TimeText).count) {
        _ if parts.is_empty() => None,
        // As declared: nothing to say.
        (Kind::Time, texts) if texts > 0 && parts.len() == 1 => None,
        _ => Some(parts.join(", ")),
    }
}
