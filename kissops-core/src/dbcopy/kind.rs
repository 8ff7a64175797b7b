//! What a declared type means, what a stored value is, and which type of Postgres holds it.

use std::fmt;

use super::{
    numeric::{self, Decimal},
    time::{self, Unit},
};

/// What the declaration of a column promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    Boolean,
    Real,
    /// With precision and scale, where declared.
    Numeric(Option<(u16, u16)>),
    /// With the greatest number of characters, where declared.
    Text(Option<u32>),
    Json,
    Blob,
    Time,
    /// Nothing that is known here: what is stored decides.
    Open,
}

impl Kind {
    /// Reads a declared type as its author meant it, which is wider than `SQLite`'s affinity.
    pub(super) fn of(declared: &str) -> Self {
        let upper = declared.to_ascii_uppercase();
        let (name, sizes) = match upper.split_once('(') {
            Some((before, rest)) => (before.trim(), sizes(rest)),
            None => (upper.trim(), Vec::new()),
        };
        let has = |word: &str| name.contains(word);
        let first = name.split_whitespace().next().unwrap_or_default();
        match first {
            "DATE" | "DATETIME" | "TIMESTAMP" | "TIMESTAMPTZ" => return Self::Time,
            "POINT" | "INTERVAL" => return Self::Open,
            "JSON" | "JSONB" => return Self::Json,
            "NUMERIC" | "DECIMAL" | "DEC" | "NUMBER" => return Self::Numeric(precision(&sizes)),
            _ => {}
        }
        if has("BOOL") {
            Self::Boolean
        } else if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            let limit =
                sizes.first().copied().filter(|n| has("CHAR") && (1..=10_485_760).contains(n));
            Self::Text(limit)
        } else if has("BLOB") || has("BINARY") || has("BYTEA") {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Open
        }
    }
}

fn sizes(text: &str) -> Vec<u32> {
    let inner = text.split(')').next().unwrap_or_default();
    inner.split(',').map_while(|size| size.trim().parse().ok()).collect()
}

/// What Postgres takes; anything else is left away, which loses nothing.
fn precision(sizes: &[u32]) -> Option<(u16, u16)> {
    let digits = u16::try_from(*sizes.first()?).ok()?;
    let scale = sizes.get(1).map_or(Some(0), |scale| u16::try_from(*scale).ok())?;
    ((1..=1000).contains(&digits) && scale <= digits).then_some((digits, scale))
}

/// The type of a column in Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Bigint,
    Boolean,
    Double,
    Numeric(Option<(u16, u16)>),
    Text,
    Varchar(u32),
    Citext,
    Bytea,
    /// Numbers in the column count this.
    Timestamp(Option<Unit>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bigint => f.write_str("bigint"),
            Self::Boolean => f.write_str("boolean"),
            Self::Double => f.write_str("double precision"),
            Self::Numeric(None) => f.write_str("numeric"),
            Self::Numeric(Some((digits, scale))) => write!(f, "numeric({digits},{scale})"),
            Self::Text => f.write_str("text"),
            Self::Varchar(limit) => write!(f, "character varying({limit})"),
            Self::Citext => f.write_str("citext"),
            Self::Bytea => f.write_str("bytea"),
            Self::Timestamp(_) => f.write_str("timestamp with time zone"),
        }
    }
}

impl Target {
    /// Values of both can be compared, as a foreign key needs.
    pub(super) fn compares_with(self, other: Self) -> bool {
        self.family() == other.family()
    }

    fn family(self) -> u8 {
        match self {
            Self::Bigint | Self::Double | Self::Numeric(_) => 0,
            Self::Text | Self::Varchar(_) | Self::Citext => 1,
            Self::Boolean => 2,
            Self::Bytea => 3,
            Self::Timestamp(_) => 4,
        }
    }

    pub(super) fn is_text(self) -> bool {
        self.family() == 1
    }

    pub(super) fn is_number(self) -> bool {
        self.family() == 0
    }

    /// Whether values of this class can be held without loss.
    pub(super) fn holds(self, class: Class) -> bool {
        use Class as C;
        if class == C::Null {
            return true;
        }
        match self {
            Self::Bigint => matches!(class, C::Int | C::IntWide),
            Self::Boolean => class == C::Truth,
            Self::Double => matches!(class, C::Int | C::Real | C::Infinite),
            Self::Numeric(None) => {
                matches!(class, C::Int | C::IntWide | C::Real | C::Decimal | C::DecimalWide)
            }
            Self::Numeric(Some(_)) => class == C::Decimal,
            Self::Varchar(_) => matches!(class, C::Text | C::Int | C::IntWide | C::Real),
            Self::Text | Self::Citext => {
                !matches!(class, C::TextNul | C::TextInvalid | C::BlobBinary)
            }
            Self::Bytea => matches!(
                class,
                C::BlobText | C::BlobBinary | C::Text | C::TextLong | C::TextNul | C::TextInvalid
            ),
            Self::Timestamp(unit) => match class {
                C::TimeText => true,
                C::Number(found) => unit == Some(found),
                C::Small => unit == Some(Unit::Seconds),
                // Among texts, it stands for no date rather than for 1970.
                C::Zero => unit.is_some_and(|unit| unit != Unit::JulianDays),
                _ => false,
            },
        }
    }
}

/// What a stored value is, seen from the kind of its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Null,
    Int,
    /// Beyond ±2^53, where a float would lose digits.
    IntWide,
    Real,
    Infinite,
    Text,
    /// More characters than declared.
    TextLong,
    TextNul,
    TextInvalid,
    /// A blob whose bytes are text.
    BlobText,
    BlobBinary,
    /// 0, 1, or a word for true or false.
    Truth,
    /// A number that fits precision and scale.
    Decimal,
    DecimalWide,
    /// A date or time that Postgres can hold exactly.
    TimeText,
    /// A time with digits beyond the microsecond.
    TimeFine,
    /// A number of the size that times have in this unit.
    Number(Unit),
    /// 0 in a column of times.
    Zero,
    /// A number that may be seconds since 1970, if others in the column are.
    Small,
}

impl Class {
    pub(super) const ALL: [Self; 23] = [
        Self::Null,
        Self::Int,
        Self::IntWide,
        Self::Real,
        Self::Infinite,
        Self::Text,
        Self::TextLong,
        Self::TextNul,
        Self::TextInvalid,
        Self::BlobText,
        Self::BlobBinary,
        Self::Truth,
        Self::Decimal,
        Self::DecimalWide,
        Self::TimeText,
        Self::TimeFine,
        Self::Number(Unit::Seconds),
        Self::Number(Unit::Millis),
        Self::Number(Unit::Micros),
        Self::Number(Unit::Nanos),
        Self::Number(Unit::JulianDays),
        Self::Zero,
        Self::Small,
    ];

    /// Where tallies of it stand in [`Class::ALL`].
    pub(super) fn index(self) -> usize {
        match self {
            Self::Null => 0,
            Self::Int => 1,
            Self::IntWide => 2,
            Self::Real => 3,
            Self::Infinite => 4,
            Self::Text => 5,
            Self::TextLong => 6,
            Self::TextNul => 7,
            Self::TextInvalid => 8,
            Self::BlobText => 9,
            Self::BlobBinary => 10,
            Self::Truth => 11,
            Self::Decimal => 12,
            Self::DecimalWide => 13,
            Self::TimeText => 14,
            Self::TimeFine => 15,
            Self::Number(Unit::Seconds) => 16,
            Self::Number(Unit::Millis) => 17,
            Self::Number(Unit::Micros) => 18,
            Self::Number(Unit::Nanos) => 19,
            Self::Number(Unit::JulianDays) => 20,
            Self::Zero => 21,
            Self::Small => 22,
        }
    }

    /// To be read after "holds": what an operator finds in the column.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Int => "integers",
            Self::IntWide => "integers beyond 2^53",
            Self::Real => "floating-point numbers",
            Self::Infinite => "infinities",
            Self::Text => "text",
            Self::TextLong => "text longer than declared",
            Self::TextNul => "text with a NUL character, which Postgres cannot hold",
            Self::TextInvalid => "text that is not valid UTF-8",
            Self::BlobText | Self::BlobBinary => "blobs",
            Self::Truth => "truth values",
            Self::Decimal => "numbers",
            Self::DecimalWide => "numbers with more digits than declared",
            Self::TimeText => "dates and times",
            Self::TimeFine => "times finer than a microsecond",
            Self::Number(Unit::Seconds) => "numbers like seconds since 1970",
            Self::Number(Unit::Millis) => "numbers like milliseconds since 1970",
            Self::Number(Unit::Micros) => "numbers like microseconds since 1970",
            Self::Number(Unit::Nanos) => "numbers like nanoseconds since 1970",
            Self::Number(Unit::JulianDays) => "numbers like julian days",
            Self::Zero => "zeros",
            Self::Small => "numbers too small to tell their unit",
        }
    }
}

/// A value as `SQLite` stores it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stored<'a> {
    Null,
    Int(i64),
    Real(f64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

/// Says what `value` is in a column of `kind`.
pub(super) fn classify(kind: Kind, value: Stored<'_>) -> Class {
    match (kind, value) {
        (_, Stored::Null) => Class::Null,
        (Kind::Boolean, value) if truth(value).is_some() => Class::Truth,
        #[expect(clippy::cast_precision_loss, reason = "the size is enough")]
        (Kind::Time, Stored::Int(n)) => match number(n as f64) {
            Class::Number(Unit::Nanos) if n % 1000 != 0 => Class::TimeFine,
            class => class,
        },
        (Kind::Time, Stored::Real(n)) => number(n),
        (Kind::Time, Stored::Text(text)) => match time::parse(text) {
            Some(found) if found.is_exact => Class::TimeText,
            Some(_) => Class::TimeFine,
            None => text_class(text, None),
        },
        (Kind::Numeric(limits), Stored::Int(_) | Stored::Real(_) | Stored::Text(_)) => {
            decimal(limits, value)
        }
        (Kind::Text(limit), Stored::Text(text)) => text_class(text, limit),
        (_, Stored::Text(text)) => text_class(text, None),
        (_, Stored::Int(n)) if n.unsigned_abs() > 1 << 53 => Class::IntWide,
        (_, Stored::Int(_)) => Class::Int,
        (_, Stored::Real(n)) if n.is_infinite() => Class::Infinite,
        (_, Stored::Real(_)) => Class::Real,
        (_, Stored::Blob(bytes)) => match text_class(bytes, None) {
            Class::Text => Class::BlobText,
            _ => Class::BlobBinary,
        },
    }
}

fn decimal(limits: Option<(u16, u16)>, value: Stored<'_>) -> Class {
    let mut digits = numeric::Digits::default();
    let Some(decimal) = numeric::read(value, &mut digits) else {
        return match value {
            Stored::Text(text) => text_class(text, None),
            _ => Class::Infinite,
        };
    };
    match limits {
        Some(limits) if !Decimal::fits(&decimal, limits) => Class::DecimalWide,
        _ => Class::Decimal,
    }
}

/// The unit that a number of this size can only be, in years that bots live in.
fn number(value: f64) -> Class {
    let size = value.abs();
    match size {
        0.0 => Class::Zero,
        // Years 1 to 9999. Seconds of this size would be in January 1970 or February.
        _ if (1_721_425.5..5_373_484.5).contains(&value) => Class::Number(Unit::JulianDays),
        _ if size < 1e8 => Class::Small,
        _ if size < 1e11 => Class::Number(Unit::Seconds),
        _ if size < 1e14 => Class::Number(Unit::Millis),
        _ if size < 1e17 => Class::Number(Unit::Micros),
        _ if size < 1e19 => Class::Number(Unit::Nanos),
        _ => Class::Infinite,
    }
}

fn text_class(text: &[u8], limit: Option<u32>) -> Class {
    let Ok(valid) = std::str::from_utf8(text) else { return Class::TextInvalid };
    if memchr::memchr(0, text).is_some() {
        return Class::TextNul;
    }
    match limit {
        Some(limit) if valid.len() > limit as usize && valid.chars().count() > limit as usize => {
            Class::TextLong
        }
        _ => Class::Text,
    }
}

/// The words that Postgres itself takes, and 0 and 1.
pub(super) fn truth(value: Stored<'_>) -> Option<bool> {
    let text = match value {
        Stored::Int(n @ (0 | 1)) => return Some(n == 1),
        Stored::Text(text) => text,
        _ => return None,
    };
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word.as_bytes()));
    if is(&["t", "true", "y", "yes", "on", "1"]) {
        Some(true)
    } else if is(&["f", "false", "n", "no", "off", "0"]) {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types() {
        for (declared, kind) in [
            ("INTEGER", Kind::Integer),
            ("unsigned big int", Kind::Integer),
            ("tinyint(1)", Kind::Integer),
            ("VARCHAR(25)", Kind::Text(Some(25))),
            ("NVARCHAR (100)", Kind::Text(Some(100))),
            ("TEXT(5)", Kind::Text(None)),
            ("decimal(10, 2)", Kind::Numeric(Some((10, 2)))),
            ("NUMERIC", Kind::Numeric(None)),
            ("NUMERIC(2,5)", Kind::Numeric(None)),
            ("DateTime", Kind::Time),
            ("timestamp with time zone", Kind::Time),
            ("TIME", Kind::Open),
            ("LONGVARBINARY", Kind::Blob),
            ("Boolean", Kind::Boolean),
            ("DOUBLE PRECISION", Kind::Real),
            ("", Kind::Open),
            ("JSON", Kind::Json),
        ] {
            assert_eq!(Kind::of(declared), kind, "{declared}");
        }
    }

    #[test]
    fn every_class_has_its_own_place() {
        for (at, class) in Class::ALL.iter().enumerate() {
            assert_eq!(class.index(), at);
        }
    }
}
