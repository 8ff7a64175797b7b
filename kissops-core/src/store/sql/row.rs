//! Rows become records here, column by column.

use std::{fmt, mem, str::FromStr, time::Duration};

use serde::de::DeserializeOwned;

use super::Value;
use crate::{
    Timestamp,
    id::{InstanceName, RecordId, RunId},
};

/// A row of an answer.
#[derive(Clone, Debug)]
pub struct Row(pub(in crate::store) Vec<Value>);

/// A column that cannot be what was written.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) struct Damage {
    column: usize,
    why: String,
}

impl Damage {
    pub(in crate::store) fn new(column: usize, why: impl Into<String>) -> Self {
        Self { column, why: why.into() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in column {} of a row, {}", self.column + 1, self.why)
    }
}

/// What a column can be read as.
pub(in crate::store) trait Column: Sized {
    /// Takes the value; says what is wrong with it.
    fn read(value: Value) -> Result<Self, String>;
}

impl Row {
    /// Takes column `at`, counted from 0; a second time it is NULL.
    pub(in crate::store) fn get<T: Column>(&mut self, at: usize) -> Result<T, Damage> {
        let value = self.0.get_mut(at).map(|value| mem::replace(value, Value::Int(None)));
        T::read(value.unwrap_or(Value::NextId)).map_err(|why| Damage::new(at, why))
    }

    /// Whether column `at` is NULL.
    pub(in crate::store) fn is_null(&self, at: usize) -> bool {
        matches!(
            self.0.get(at),
            Some(Value::Int(None) | Value::Text(None) | Value::Real(None) | Value::Blob(None))
        )
    }

    /// Column `at` as something that has a text form.
    pub(in crate::store) fn parsed<T: FromStr<Err = crate::Error>>(
        &mut self,
        at: usize,
    ) -> Result<T, Damage> {
        let text: String = self.get(at)?;
        text.parse().map_err(|err: crate::Error| Damage::new(at, err.chain()))
    }
}

/// Column `at` as a document.
pub(in crate::store) fn document<T: DeserializeOwned>(
    row: &mut Row,
    at: usize,
) -> Result<T, Damage> {
    let text: String = row.get(at)?;
    serde_json::from_str(&text).map_err(|err| Damage::new(at, err.to_string()))
}

fn other(found: &Value, wanted: &str) -> String {
    let found = match found {
        Value::Int(None) | Value::Text(None) | Value::Real(None) | Value::Blob(None) => "nothing",
        Value::Int(_) => "a whole number",
        Value::Real(_) => "a number",
        Value::Text(_) => "a text",
        Value::Blob(_) => "bytes",
        Value::Ints(_) | Value::Texts(_) | Value::NextId => "no such column",
    };
    format!("there is {found} instead of {wanted}")
}

impl Column for i64 {
    fn read(value: Value) -> Result<Self, String> {
        if let Value::Int(Some(number)) = value {
            Ok(number)
        } else {
            Err(other(&value, "a whole number"))
        }
    }
}

impl Column for f64 {
    fn read(value: Value) -> Result<Self, String> {
        match value {
            Value::Real(Some(number)) => Ok(number),
            // An engine may keep a whole number as one.
            #[expect(clippy::cast_precision_loss, reason = "it was a float before it was stored")]
            Value::Int(Some(number)) => Ok(number as Self),
            value => Err(other(&value, "a number")),
        }
    }
}

impl Column for String {
    fn read(value: Value) -> Result<Self, String> {
        if let Value::Text(Some(text)) = value { Ok(text) } else { Err(other(&value, "a text")) }
    }
}

impl Column for Vec<u8> {
    fn read(value: Value) -> Result<Self, String> {
        if let Value::Blob(Some(bytes)) = value { Ok(bytes) } else { Err(other(&value, "bytes")) }
    }
}

impl Column for bool {
    fn read(value: Value) -> Result<Self, String> {
        match i64::read(value)? {
            0 => Ok(false),
            1 => Ok(true),
            number => Err(format!("{number} is neither 0 nor 1")),
        }
    }
}

impl Column for i32 {
    fn read(value: Value) -> Result<Self, String> {
        let number = i64::read(value)?;
        Self::try_from(number).map_err(|_| format!("{number} is too large"))
    }
}

impl Column for u32 {
    fn read(value: Value) -> Result<Self, String> {
        let number = i64::read(value)?;
        Self::try_from(number).map_err(|_| format!("{number} is out of range"))
    }
}

impl Column for u64 {
    fn read(value: Value) -> Result<Self, String> {
        i64::read(value).map(i64::cast_unsigned)
    }
}

impl Column for Timestamp {
    fn read(value: Value) -> Result<Self, String> {
        i64::read(value).map(Self)
    }
}

impl Column for RecordId {
    fn read(value: Value) -> Result<Self, String> {
        i64::read(value).map(Self)
    }
}

impl Column for RunId {
    fn read(value: Value) -> Result<Self, String> {
        i64::read(value).map(Self)
    }
}

impl Column for Duration {
    fn read(value: Value) -> Result<Self, String> {
        let micros = i64::read(value)?;
        let micros =
            u64::try_from(micros).map_err(|_| format!("{micros} is no span of microseconds"))?;
        Ok(Self::from_micros(micros))
    }
}

impl Column for InstanceName {
    fn read(value: Value) -> Result<Self, String> {
        Self::new(&String::read(value)?).map_err(|err| err.chain())
    }
}

impl<T: Column> Column for Option<T> {
    fn read(value: Value) -> Result<Self, String> {
        match value {
            Value::Int(None) | Value::Text(None) | Value::Real(None) | Value::Blob(None) => {
                Ok(None)
            }
            value => T::read(value).map(Some),
        }
    }
}
