//! Expressions of `SQLite` in Postgres' words, where they mean the same for every value; otherwise the reason why not.
//!
//! Postgres is strict about types where `SQLite` is not, so every part is translated together with its type.

use sqlite3_parser::ast::{Expr, LikeOperator, Literal, Operator, UnaryOperator};

use super::{function, kind::Target, parse::unquote, schema::Table, time};
use crate::pg::quoted;

/// What a translated expression yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Truth,
    Int,
    Real,
    Text,
    Bytes,
    Time,
    Null,
}

impl From<Target> for Type {
    fn from(target: Target) -> Self {
        match target {
            Target::Bigint => Self::Int,
            Target::Boolean => Self::Truth,
            Target::Double | Target::Numeric(_) => Self::Real,
            Target::Text | Target::Varchar(_) | Target::Citext => Self::Text,
            Target::Bytea => Self::Bytes,
            Target::Timestamp(_) => Self::Time,
        }
    }
}

/// A translated expression.
#[derive(Clone, Debug)]
pub(super) struct Sql {
    pub(super) text: String,
    pub(super) of: Type,
}

impl Sql {
    pub(super) fn new(text: impl Into<String>, of: Type) -> Self {
        Self { text: text.into(), of }
    }
}

pub(super) type Translated = Result<Sql, String>;

/// Which columns an expression may name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) columns: Option<(&'a Table, &'a [Target])>,
}

/// `'text'`.
pub(super) fn quote_text(text: &str) -> String {
    // Backslashes mean themselves, as the session sets standard_conforming_strings.
    format!("'{}'", text.replace('\'', "''"))
}

impl Scope<'_> {
    /// A condition: of `CHECK`, or of a partial index.
    pub(super) fn condition(self, expr: &Expr<'_>) -> Result<String, String> {
        let sql = self.value(expr)?;
        truth(sql, expr)
    }

    /// An expression as a value of a column of this type.
    pub(super) fn of_type(self, expr: &Expr<'_>, target: Target) -> Result<String, String> {
        let sql = self.value(expr)?;
        let wanted = Type::from(target);
        match (wanted, sql.of) {
            (_, Type::Null) => Ok("NULL".to_owned()),
            (wanted, of) if wanted == of => Ok(sql.text),
            (Type::Real, Type::Int) => Ok(format!("({})::{target}", sql.text)),
            (Type::Int, Type::Truth) => Ok(format!("({})::integer::bigint", sql.text)),
            (Type::Truth, Type::Int) => truth(sql, expr),
            (Type::Text, Type::Int) => Ok(format!("({})::text", sql.text)),
            (Type::Bytes, Type::Text) => Ok(format!("convert_to({}, 'UTF8')", sql.text)),
            (Type::Time, Type::Text) => moment(expr),
            _ => Err(format!("{expr} is no {target}")),
        }
    }

    pub(super) fn value(self, expr: &Expr<'_>) -> Translated {
        match expr {
            Expr::Literal(literal) => self.literal(literal, expr),
            Expr::Id(name) => self.column(name.0),
            Expr::Name(name) | Expr::Qualified(_, name) | Expr::DoublyQualified(_, _, name) => {
                self.column(name.0)
            }
            Expr::Parenthesized(inner) if inner.len() == 1 => self.value(&inner[0]),
            Expr::Unary(operator, inner) => self.unary(*operator, inner),
            Expr::Binary(left, operator, right) => self.binary(left, *operator, right),
            Expr::IsNull(inner) => self.is_null(inner, "IS NULL"),
            Expr::NotNull(inner) => self.is_null(inner, "IS NOT NULL"),
            Expr::Between { lhs, not, start, end } => self.between(lhs, *not, start, end),
            Expr::InList { lhs, not, rhs } => self.in_list(lhs, *not, rhs.unwrap_or_default()),
            Expr::Like { lhs, not, op, rhs, escape } => self.like(lhs, *not, *op, rhs, *escape),
            Expr::Case { base, when_then_pairs, else_expr } => {
                self.case(*base, when_then_pairs, *else_expr)
            }
            Expr::Cast { expr: inner, type_name } => {
                let name = type_name.as_ref().map(|name| name.name.to_ascii_uppercase());
                function::cast(self.value(inner)?, name.as_deref().unwrap_or_default(), expr)
            }
            Expr::FunctionCall {
                name,
                distinctness: None,
                args,
                order_by: None,
                filter_over: None,
            } => function::call(
                self,
                &unquote(name.0).to_ascii_lowercase(),
                args.unwrap_or_default(),
                expr,
            ),
            _ => Err(format!("{expr} has no counterpart")),
        }
    }

    fn column(self, name: &str) -> Translated {
        let plain = unquote(name);
        if let Some((table, targets)) = self.columns
            && let Some(at) = table.column(&plain)
        {
            return Ok(Sql::new(quoted(&table.columns[at].name), targets[at].into()));
        }
        match plain.to_ascii_lowercase().as_str() {
            "true" if plain == name => Ok(Sql::new("true", Type::Truth)),
            "false" if plain == name => Ok(Sql::new("false", Type::Truth)),
            // What stands in double quotes and is no column is a string to SQLite.
            _ if name.starts_with('"') => Ok(Sql::new(quote_text(&plain), Type::Text)),
            _ => Err(format!("{name} is no column of the table")),
        }
    }

    fn literal(self, literal: &Literal<'_>, expr: &Expr<'_>) -> Translated {
        match literal {
            Literal::Numeric(text) => number(text).ok_or_else(|| format!("{text} is no number")),
            Literal::String(text) => {
                let plain = unquote(text);
                if plain.contains('\0') {
                    Err("text with NUL".to_owned())
                } else {
                    Ok(Sql::new(quote_text(&plain), Type::Text))
                }
            }
            Literal::Blob(hex) => {
                let digits: String = hex.chars().filter(char::is_ascii_hexdigit).collect();
                Ok(Sql::new(format!("'\\x{digits}'::bytea"), Type::Bytes))
            }
            Literal::Null => Ok(Sql::new("NULL", Type::Null)),
            Literal::Keyword(word) => self.column(word),
            _ => Err(format!("{expr} changes with time")),
        }
    }

    fn unary(self, operator: UnaryOperator, inner: &Expr<'_>) -> Translated {
        let sql = self.value(inner)?;
        match operator {
            UnaryOperator::Not => {
                Ok(Sql::new(format!("(NOT {})", truth(sql, inner)?), Type::Truth))
            }
            UnaryOperator::Positive => Ok(sql),
            UnaryOperator::Negative => {
                // -9223372036854775808: the number alone does not fit.
                if sql.text == "9223372036854775808" {
                    return Ok(Sql::new("(-9223372036854775808)", Type::Int));
                }
                let sql = arithmetic(sql, inner)?;
                Ok(Sql::new(format!("(- {})", sql.text), sql.of))
            }
            UnaryOperator::BitwiseNot => {
                let sql = integer(sql, inner)?;
                Ok(Sql::new(format!("(~ {})", sql.text), Type::Int))
            }
        }
    }

    fn binary(self, left: &Expr<'_>, operator: Operator, right: &Expr<'_>) -> Translated {
        let word = match operator {
            Operator::And | Operator::Or => {
                let (one, two) = (self.condition(left)?, self.condition(right)?);
                let word = if operator == Operator::And { "AND" } else { "OR" };
                return Ok(Sql::new(format!("({one} {word} {two})"), Type::Truth));
            }
            Operator::Equals => "=",
            Operator::NotEquals => "<>",
            Operator::Less => "<",
            Operator::LessEquals => "<=",
            Operator::Greater => ">",
            Operator::GreaterEquals => ">=",
            Operator::Is => "IS NOT DISTINCT FROM",
            Operator::IsNot => "IS DISTINCT FROM",
            Operator::Concat => {
                let (one, two) =
                    (as_text(self.value(left)?, left)?, as_text(self.value(right)?, right)?);
                return Ok(Sql::new(format!("({one} || {two})"), Type::Text));
            }
            _ => return self.arithmetic(left, operator, right),
        };
        let (one, two) = self.pair(left, right)?;
        Ok(Sql::new(format!("({} {word} {})", one.text, two.text), Type::Truth))
    }

    fn arithmetic(self, left: &Expr<'_>, operator: Operator, right: &Expr<'_>) -> Translated {
        let (one, two) =
            (arithmetic(self.value(left)?, left)?, arithmetic(self.value(right)?, right)?);
        let of = if one.of == Type::Real || two.of == Type::Real { Type::Real } else { Type::Int };
        let (a, b) = (one.text.clone(), two.text.clone());
        let text = match operator {
            Operator::Add => format!("({a} + {b})"),
            Operator::Subtract => format!("({a} - {b})"),
            Operator::Multiply => format!("({a} * {b})"),
            // Division by zero gives NULL in SQLite.
            Operator::Divide => format!("({a} / NULLIF({b}, 0))"),
            Operator::Modulus if of == Type::Int => format!("({a} % NULLIF({b}, 0))"),
            Operator::BitwiseAnd if of == Type::Int => format!("({a} & {b})"),
            Operator::BitwiseOr if of == Type::Int => format!("({a} | {b})"),
            _ => return Err(format!("{left} and {right}: this operator has no counterpart")),
        };
        Ok(Sql::new(text, of))
    }

    fn is_null(self, inner: &Expr<'_>, words: &str) -> Translated {
        Ok(Sql::new(format!("({} {words})", self.value(inner)?.text), Type::Truth))
    }

    fn between(self, value: &Expr<'_>, not: bool, start: &Expr<'_>, end: &Expr<'_>) -> Translated {
        let (low, one) = self.pair(start, value)?;
        let (high, two) = self.pair(end, value)?;
        if one.text != two.text {
            return Err(format!("{value} is compared with values of several types"));
        }
        let word = if not { "NOT BETWEEN" } else { "BETWEEN" };
        Ok(Sql::new(format!("({} {word} {} AND {})", one.text, low.text, high.text), Type::Truth))
    }

    fn in_list(self, value: &Expr<'_>, not: bool, list: &[Expr<'_>]) -> Translated {
        if list.is_empty() {
            return Ok(Sql::new(if not { "true" } else { "false" }, Type::Truth));
        }
        let mut items = Vec::with_capacity(list.len());
        let mut tested = String::new();
        for item in list {
            let (one, two) = self.pair(value, item)?;
            if !tested.is_empty() && tested != one.text {
                return Err(format!("{value} is compared with values of several types"));
            }
            tested = one.text;
            items.push(two.text);
        }
        let word = if not { "NOT IN" } else { "IN" };
        Ok(Sql::new(format!("({tested} {word} ({}))", items.join(", ")), Type::Truth))
    }

    fn like(
        self,
        value: &Expr<'_>,
        not: bool,
        operator: LikeOperator,
        pattern: &Expr<'_>,
        escape: Option<&Expr<'_>>,
    ) -> Translated {
        let (text, negation) = (self.value(value)?, if not { "NOT " } else { "" });
        let Expr::Literal(Literal::String(pattern)) = pattern else {
            return Err(format!("{pattern} is no fixed pattern"));
        };
        if text.of != Type::Text {
            return Err(format!("{value} is no text"));
        }
        let pattern = unquote(pattern);
        match (operator, escape) {
            (LikeOperator::Like, None) => {
                let sql =
                    format!("({} {negation}ILIKE {} ESCAPE '')", text.text, quote_text(&pattern));
                Ok(Sql::new(sql, Type::Truth))
            }
            (LikeOperator::Glob, None) => {
                let pattern = quote_text(&function::glob(&pattern)?);
                let sql = format!("({negation}(({})::text COLLATE \"C\") ~ {pattern})", text.text);
                Ok(Sql::new(sql, Type::Truth))
            }
            _ => Err(format!("this operator on {value} has no counterpart")),
        }
    }

    fn case(
        self,
        base: Option<&Expr<'_>>,
        pairs: &[(Expr<'_>, Expr<'_>)],
        otherwise: Option<&Expr<'_>>,
    ) -> Translated {
        let mut text = "CASE".to_owned();
        let mut of = Type::Null;
        for (when, then) in pairs {
            let condition = match base {
                None => self.condition(when)?,
                Some(base) => {
                    let (one, two) = self.pair(base, when)?;
                    format!("({} = {})", one.text, two.text)
                }
            };
            let then_sql = self.value(then)?;
            of = same(of, then_sql.of, then)?;
            text = format!("{text} WHEN {condition} THEN {}", then_sql.text);
        }
        if let Some(otherwise) = otherwise {
            let sql = self.value(otherwise)?;
            of = same(of, sql.of, otherwise)?;
            text = format!("{text} ELSE {}", sql.text);
        }
        Ok(Sql::new(format!("({text} END)"), of))
    }

    /// Both sides of a comparison, as types that Postgres compares.
    pub(super) fn pair(self, left: &Expr<'_>, right: &Expr<'_>) -> Result<(Sql, Sql), String> {
        let (one, two) = (self.value(left)?, self.value(right)?);
        let flip = |pair: (Sql, Sql)| (pair.1, pair.0);
        match (one.of, two.of) {
            (Type::Truth, Type::Int) => Ok(truth_and_number(one, two)),
            (Type::Int, Type::Truth) => Ok(flip(truth_and_number(two, one))),
            (Type::Time, Type::Text) => Ok((one, Sql::new(moment(right)?, Type::Time))),
            (Type::Text, Type::Time) => Ok((Sql::new(moment(left)?, Type::Time), two)),
            (Type::Int | Type::Real, Type::Int | Type::Real)
            | (Type::Null, _)
            | (_, Type::Null) => Ok((one, two)),
            (a, b) if a == b => Ok((one, two)),
            _ => Err(format!("{left} and {right} are of different types")),
        }
    }
}

fn truth_and_number(truth: Sql, number: Sql) -> (Sql, Sql) {
    let word = match number.text.as_str() {
        "0" => "false",
        "1" => "true",
        _ => {
            let text = format!("({})::integer", truth.text);
            return (Sql::new(text, Type::Int), number);
        }
    };
    (truth, Sql::new(word, Type::Truth))
}

/// A time that is written down, as text without a zone: it is UTC.
fn moment(expr: &Expr<'_>) -> Result<String, String> {
    if let Expr::Literal(Literal::String(text)) = expr {
        let text = unquote(text);
        if time::parse(text.as_bytes()).is_some_and(|found| found.is_exact) {
            let zone = match text.len() {
                10 => " 00:00:00+00",
                16 | 19 => "+00",
                _ => "",
            };
            if !zone.is_empty() || text.ends_with('Z') {
                return Ok(format!("TIMESTAMPTZ {}", quote_text(&format!("{text}{zone}"))));
            }
        }
    }
    Err(format!("{expr} is no time"))
}

fn truth(sql: Sql, expr: &Expr<'_>) -> Result<String, String> {
    match sql.of {
        Type::Truth | Type::Null => Ok(sql.text),
        Type::Int if sql.text == "0" => Ok("false".to_owned()),
        Type::Int if sql.text == "1" => Ok("true".to_owned()),
        Type::Int | Type::Real => Ok(format!("({} <> 0)", sql.text)),
        _ => Err(format!("{expr} is no condition")),
    }
}

pub(super) fn arithmetic(sql: Sql, expr: &Expr<'_>) -> Translated {
    match sql.of {
        Type::Int | Type::Real | Type::Null => Ok(sql),
        Type::Truth => Ok(Sql::new(format!("({})::integer", sql.text), Type::Int)),
        _ => Err(format!("{expr} is no number")),
    }
}

fn integer(sql: Sql, expr: &Expr<'_>) -> Translated {
    let sql = arithmetic(sql, expr)?;
    if sql.of == Type::Real { Err(format!("{expr} is no integer")) } else { Ok(sql) }
}

fn as_text(sql: Sql, expr: &Expr<'_>) -> Result<String, String> {
    match sql.of {
        Type::Text | Type::Null => Ok(sql.text),
        Type::Int => Ok(format!("({})::text", sql.text)),
        Type::Truth => Ok(format!("({})::integer::text", sql.text)),
        _ => Err(format!("{expr} is shown differently as text")),
    }
}

/// The type of two branches together.
pub(super) fn same(one: Type, two: Type, expr: &Expr<'_>) -> Result<Type, String> {
    match (one, two) {
        (Type::Null, other) | (other, Type::Null) => Ok(other),
        (Type::Int, Type::Real) | (Type::Real, Type::Int) => Ok(Type::Real),
        (a, b) if a == b => Ok(a),
        _ => Err(format!("{expr} is of another type than the other branches")),
    }
}

fn number(text: &str) -> Option<Sql> {
    let plain = text.replace('_', "");
    if let Some(hex) = plain.strip_prefix("0x").or_else(|| plain.strip_prefix("0X")) {
        let value = u64::from_str_radix(hex, 16).ok()?.cast_signed();
        return Some(Sql::new(value.to_string(), Type::Int));
    }
    if plain.parse::<i64>().is_ok() || plain == "9223372036854775808" {
        return Some(Sql::new(plain, Type::Int));
    }
    let value: f64 = plain.parse().ok()?;
    let text = if value.is_infinite() {
        "'Infinity'::double precision".to_owned()
    } else {
        format!("{value:?}::double precision")
    };
    Some(Sql::new(text, Type::Real))
}
