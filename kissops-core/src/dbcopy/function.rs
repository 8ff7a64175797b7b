//! `SQLite`'s functions, as far as they have a counterpart that gives the same, and its ways to say "now".

use sqlite3_parser::ast::{Expr, Literal};

use super::{
    expression::{Scope, Sql, Translated, Type, arithmetic, quote_text, same},
    kind::Target,
    parse::{self, unquote},
};

/// A call of a function whose name is in lower case.
pub(super) fn call(
    scope: Scope<'_>,
    name: &str,
    args: &[Expr<'_>],
    whole: &Expr<'_>,
) -> Translated {
    if let Some(now) = Now::of_call(name, args) {
        // Only a default may depend on the time; in every other place, SQLite refuses it, too.
        return match now {
            Now::Epoch => Ok(Sql::new(EPOCH, Type::Int)),
            Now::Julian => Ok(Sql::new(JULIAN, Type::Real)),
            Now::Text(_) => Err(format!("{whole} depends on the time")),
        };
    }
    let text = |at: usize| -> Result<String, String> {
        let sql = scope.value(&args[at])?;
        match sql.of {
            Type::Text | Type::Null => Ok(sql.text),
            _ => Err(format!("{} is no text", args[at])),
        }
    };
    match (name, args) {
        ("lower" | "upper" | "ltrim" | "rtrim" | "trim", [_]) => {
            let name = if name == "trim" { "btrim" } else { name };
            Ok(Sql::new(format!("{name}({})", text(0)?), Type::Text))
        }
        ("length", [only]) => {
            let sql = scope.value(only)?;
            match sql.of {
                Type::Text => Ok(Sql::new(format!("char_length({})", sql.text), Type::Int)),
                Type::Bytes => Ok(Sql::new(format!("octet_length({})", sql.text), Type::Int)),
                Type::Int => Ok(Sql::new(format!("char_length(({})::text)", sql.text), Type::Int)),
                _ => Err(format!("{whole}: the length of this type differs")),
            }
        }
        ("typeof", [only]) => {
            let sql = scope.value(only)?;
            let name = match sql.of {
                Type::Text => "text",
                Type::Int => "integer",
                Type::Bytes => "blob",
                _ => return Err(format!("{whole}: this type has no counterpart")),
            };
            let text = format!("(CASE WHEN {} IS NULL THEN 'null' ELSE '{name}' END)", sql.text);
            Ok(Sql::new(text, Type::Text))
        }
        ("abs", [only]) => {
            let sql = arithmetic(scope.value(only)?, only)?;
            Ok(Sql::new(format!("abs({})", sql.text), sql.of))
        }
        ("replace", [_, _, _]) => {
            Ok(Sql::new(format!("replace({}, {}, {})", text(0)?, text(1)?, text(2)?), Type::Text))
        }
        ("instr", [_, _]) => Ok(Sql::new(format!("strpos({}, {})", text(0)?, text(1)?), Type::Int)),
        ("substr" | "substring", [_, from]) if positive(from) => {
            Ok(Sql::new(format!("substr({}, {from})", text(0)?), Type::Text))
        }
        ("substr" | "substring", [_, from, count]) if positive(from) && positive(count) => {
            Ok(Sql::new(format!("substr({}, {from}, {count})", text(0)?), Type::Text))
        }
        ("hex", [only]) => {
            let sql = scope.value(only)?;
            let bytes = match sql.of {
                Type::Bytes => sql.text,
                Type::Text => format!("convert_to({}, 'UTF8')", sql.text),
                _ => return Err(format!("{whole}: of this type it differs")),
            };
            Ok(Sql::new(format!("upper(encode({bytes}, 'hex'))"), Type::Text))
        }
        ("coalesce" | "ifnull", [_, _, ..]) => {
            let mut of = Type::Null;
            let mut texts = Vec::with_capacity(args.len());
            for arg in args {
                let sql = scope.value(arg)?;
                of = same(of, sql.of, arg)?;
                texts.push(sql.text);
            }
            Ok(Sql::new(format!("coalesce({})", texts.join(", ")), of))
        }
        ("nullif", [one, two]) => {
            let (one, two) = scope.pair(one, two)?;
            Ok(Sql::new(format!("nullif({}, {})", one.text, two.text), one.of))
        }
        ("iif" | "if", [condition, then, otherwise]) => {
            let (one, two) = (scope.value(then)?, scope.value(otherwise)?);
            let of = same(one.of, two.of, whole)?;
            let condition = scope.condition(condition)?;
            Ok(Sql::new(
                format!("(CASE WHEN {condition} THEN {} ELSE {} END)", one.text, two.text),
                of,
            ))
        }
        _ => Err(format!("the function {name} has no counterpart")),
    }
}

fn positive(expr: &Expr<'_>) -> bool {
    matches!(expr, Expr::Literal(Literal::Numeric(text)) if text.parse::<u32>().is_ok_and(|n| n > 0))
}

/// `CAST`, whose type is in upper case.
pub(super) fn cast(sql: Sql, wanted: &str, whole: &Expr<'_>) -> Translated {
    let of = |words: &[&str]| words.iter().any(|word| wanted.contains(word));
    match sql.of {
        Type::Int | Type::Truth | Type::Null if of(&["INT"]) => arithmetic(sql, whole),
        Type::Real if of(&["INT"]) => {
            Ok(Sql::new(format!("trunc({})::bigint", sql.text), Type::Int))
        }
        Type::Int | Type::Real if of(&["REAL", "FLOA", "DOUB"]) => {
            Ok(Sql::new(format!("({})::double precision", sql.text), Type::Real))
        }
        Type::Text if of(&["CHAR", "CLOB", "TEXT"]) => Ok(sql),
        Type::Int if of(&["CHAR", "CLOB", "TEXT"]) => {
            Ok(Sql::new(format!("({})::text", sql.text), Type::Text))
        }
        _ => Err(format!("{whole} has no counterpart")),
    }
}

/// `GLOB`'s pattern as a regular expression.
pub(super) fn glob(pattern: &str) -> Result<String, String> {
    let mut out = "^".to_owned();
    let mut rest = pattern.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            '[' => {
                out.push('[');
                out.extend(rest.next_if_eq(&'^'));
                // A bracket that comes first is one of the set.
                out.extend(rest.next_if_eq(&']'));
                loop {
                    match rest.next() {
                        Some(']') => break,
                        Some('\\') => out.push_str("\\\\"),
                        Some('[') | None => {
                            return Err(format!("the pattern {pattern} is not understood"));
                        }
                        Some(other) => out.push(other),
                    }
                }
                out.push(']');
            }
            plain if plain.is_alphanumeric() || plain == '_' || plain == ' ' => out.push(plain),
            special if special.is_ascii() => out.extend(['\\', special]),
            other => out.push(other),
        }
    }
    out.push('$');
    Ok(out)
}

const EPOCH: &str = "floor(extract(epoch FROM CURRENT_TIMESTAMP))::bigint";
const JULIAN: &str =
    "(extract(epoch FROM CURRENT_TIMESTAMP)::double precision / 86400.0 + 2440587.5)";
const UTC: &str = "CURRENT_TIMESTAMP AT TIME ZONE 'UTC'";

/// The ways in which `SQLite` gives the present time.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Now {
    /// Text, by a pattern of `to_char`.
    Text(String),
    /// Whole seconds since 1970.
    Epoch,
    Julian,
}

impl Now {
    fn of_call(name: &str, args: &[Expr<'_>]) -> Option<Self> {
        let is_now = |arg: &Expr<'_>| matches!(arg, Expr::Literal(Literal::String(text)) if unquote(text).eq_ignore_ascii_case("now"));
        match (name, args) {
            ("strftime", [Expr::Literal(Literal::String(format)), rest @ ..])
                if rest.is_empty() || (rest.len() == 1 && is_now(&rest[0])) =>
            {
                Self::of_format(&unquote(format))
            }
            (_, []) => Self::named(name),
            (_, [only]) if is_now(only) => Self::named(name),
            _ => None,
        }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "datetime" => Self::of_format("%Y-%m-%d %H:%M:%S"),
            "date" => Self::of_format("%Y-%m-%d"),
            "time" => Self::of_format("%H:%M:%S"),
            "julianday" => Some(Self::Julian),
            "unixepoch" => Some(Self::Epoch),
            _ => None,
        }
    }

    fn of_format(format: &str) -> Option<Self> {
        match format {
            "%s" => return Some(Self::Epoch),
            "%J" => return Some(Self::Julian),
            _ => {}
        }
        let (mut pattern, mut rest) = (String::new(), format.chars());
        while let Some(next) = rest.next() {
            match next {
                '%' => pattern.push_str(match rest.next()? {
                    'Y' => "YYYY",
                    'm' => "MM",
                    'd' => "DD",
                    'H' => "HH24",
                    'M' => "MI",
                    'S' => "SS",
                    'f' => "SS.MS",
                    'F' => "YYYY-MM-DD",
                    'T' => "HH24:MI:SS",
                    'R' => "HH24:MI",
                    'j' => "DDD",
                    _ => return None,
                }),
                letter if letter.is_ascii_alphabetic() => pattern.extend(['"', letter, '"']),
                '"' | '\\' => return None,
                other => pattern.push(other),
            }
        }
        Some(Self::Text(pattern))
    }

    fn of_expression(expr: &Expr<'_>) -> Option<Self> {
        match expr {
            Expr::Parenthesized(inner) if inner.len() == 1 => Self::of_expression(&inner[0]),
            Expr::Literal(Literal::CurrentTimestamp) => Self::named("datetime"),
            Expr::Literal(Literal::CurrentDate) => Self::named("date"),
            Expr::Literal(Literal::CurrentTime) => Self::named("time"),
            Expr::FunctionCall { name, args, .. } => {
                Self::of_call(&unquote(name.0).to_ascii_lowercase(), args.unwrap_or_default())
            }
            _ => None,
        }
    }

    fn in_column(self, target: Target) -> Option<String> {
        match (target, self) {
            (Target::Timestamp(_), Self::Epoch | Self::Julian) => {
                Some("CURRENT_TIMESTAMP".to_owned())
            }
            (Target::Timestamp(_), Self::Text(pattern))
                if pattern.contains("YYYY") && pattern.contains("HH24") =>
            {
                Some("CURRENT_TIMESTAMP".to_owned())
            }
            (Target::Timestamp(_), Self::Text(pattern)) if pattern == "YYYY-MM-DD" => {
                Some(format!("(date_trunc('day', {UTC}) AT TIME ZONE 'UTC')"))
            }
            (target, Self::Text(pattern)) if target.is_text() => {
                Some(format!("to_char({UTC}, {})", quote_text(&pattern)))
            }
            (target, Self::Epoch) if target.is_number() => Some(EPOCH.to_owned()),
            (target, Self::Epoch) if target.is_text() => Some(format!("({EPOCH})::text")),
            (Target::Double, Self::Julian) => Some(JULIAN.to_owned()),
            _ => None,
        }
    }
}

/// The default of a column of this type.
pub(super) fn default(text: &str, target: Target) -> Result<String, String> {
    parse::expression(text, |expr| {
        let not_so = || format!("DEFAULT {text} does not fit {target}");
        if let Some(now) = Now::of_expression(expr) {
            return now.in_column(target).ok_or_else(not_so);
        }
        if let (Target::Boolean, Some(word)) = (target, plain_text(expr)) {
            let stored = super::kind::Stored::Text(word.as_bytes());
            return super::kind::truth(stored).map(|truth| truth.to_string()).ok_or_else(not_so);
        }
        let number = plain_text(expr).filter(|word| word.parse::<f64>().is_ok());
        match (target, number) {
            // SQLite would store '5' as 5 there.
            (Target::Bigint, Some(word)) => {
                word.parse::<i64>().map(|n| n.to_string()).map_err(|_| not_so())
            }
            (Target::Double | Target::Numeric(_), Some(word)) => {
                Ok(format!("{}::{target}", quote_text(&word)))
            }
            (Target::Timestamp(_), Some(_)) => Err(not_so()),
            (target, _) if target.is_text() => text_default(expr, target),
            _ => Scope { columns: None }.of_type(expr, target).map_err(|_| not_so()),
        }
    })
}

/// A number that is written down becomes the text that `SQLite` would store.
fn text_default(expr: &Expr<'_>, target: Target) -> Result<String, String> {
    match expr {
        Expr::Literal(Literal::Numeric(digits)) => Ok(quote_text(digits)),
        _ => Scope { columns: None }.of_type(expr, target),
    }
}

/// Text that is written down, in either sort of quotes.
fn plain_text(expr: &Expr<'_>) -> Option<String> {
    match expr {
        Expr::Parenthesized(inner) if inner.len() == 1 => plain_text(&inner[0]),
        Expr::Literal(Literal::String(text)) => Some(unquote(text)),
        Expr::Id(name) if name.0.starts_with('"') => Some(unquote(name.0)),
        Expr::Name(name) if name.0.starts_with('"') => Some(unquote(name.0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults() {
        for (text, target, wanted) in [
            ("0", Target::Boolean, "false"),
            ("1", Target::Boolean, "true"),
            ("'yes'", Target::Boolean, "true"),
            ("TRUE", Target::Boolean, "true"),
            ("0", Target::Bigint, "0"),
            ("-1", Target::Bigint, "(- 1)"),
            ("'5'", Target::Bigint, "5"),
            ("(1 + 2)", Target::Bigint, "(1 + 2)"),
            ("0.0", Target::Double, "0.0::double precision"),
            ("0", Target::Double, "(0)::double precision"),
            ("'it''s'", Target::Text, "'it''s'"),
            ("\"word\"", Target::Text, "'word'"),
            ("0", Target::Text, "'0'"),
            ("NULL", Target::Text, "NULL"),
            ("x'00ff'", Target::Bytea, "'\\x00ff'::bytea"),
            ("CURRENT_TIMESTAMP", Target::Timestamp(None), "CURRENT_TIMESTAMP"),
            ("(datetime('now'))", Target::Timestamp(None), "CURRENT_TIMESTAMP"),
            ("(strftime('%s', 'now'))", Target::Bigint, EPOCH),
            (
                "(unixepoch() * 1000)",
                Target::Bigint,
                "(floor(extract(epoch FROM CURRENT_TIMESTAMP))::bigint * 1000)",
            ),
            ("(julianday('now'))", Target::Double, JULIAN),
            ("'2024-01-02'", Target::Timestamp(None), "TIMESTAMPTZ '2024-01-02 00:00:00+00'"),
            (
                "(strftime('%Y-%m-%dT%H:%M:%fZ','now'))",
                Target::Text,
                "to_char(CURRENT_TIMESTAMP AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')",
            ),
        ] {
            assert_eq!(default(text, target).as_deref(), Ok(wanted), "{text}");
        }
        for (text, target) in [
            ("'n/a'", Target::Bigint),
            ("''", Target::Timestamp(None)),
            ("(datetime('now', 'localtime'))", Target::Text),
            ("(randomblob(16))", Target::Bytea),
            ("7", Target::Bytea),
        ] {
            assert!(default(text, target).is_err(), "{text}");
        }
    }

    #[test]
    fn globs() {
        assert_eq!(glob("a*b?.[0-9]"), Ok("^a.*b.\\.[0-9]$".to_owned()));
        assert_eq!(glob("[^a]"), Ok("^[^a]$".to_owned()));
        assert!(glob("[a").is_err());
    }
}
