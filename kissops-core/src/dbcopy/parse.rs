//! What is read from the text of definitions, by a parser that is generated from `SQLite`'s own grammar.

use sqlite3_parser::{
    Bump, FallibleIterator as _,
    ast::{
        Cmd, ColumnConstraint, ColumnDefinition, CreateTableBody, DeferSubclause, Expr,
        InitDeferredPred, OneSelect, ResultColumn, SortedColumn, Stmt, TableConstraint,
    },
    lexer::sql::Parser,
};

/// What the pragmas do not tell of a table.
#[derive(Debug, Default)]
pub(super) struct Definition {
    pub(super) columns: Vec<Parsed>,
    pub(super) checks: Vec<String>,
    /// How each foreign key is deferred, in the order of the text.
    pub(super) foreign_keys: Vec<&'static str>,
}

#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) name: String,
    pub(super) no_case: bool,
    /// The expression of a generated column.
    pub(super) generated: Option<String>,
}

/// Reads the text of `CREATE TABLE`.
pub(super) fn table(sql: &str) -> Result<Definition, String> {
    let bump = Bump::new();
    let Stmt::CreateTable { body, .. } = statement(&bump, sql)? else {
        return Err("it is no CREATE TABLE".to_owned());
    };
    let CreateTableBody::ColumnsAndConstraints { columns, constraints, .. } = body else {
        return Err("it has no columns".to_owned());
    };
    let mut definition = Definition::default();
    for column in &columns {
        read_column(column, &mut definition);
    }
    for constraint in constraints.unwrap_or_default() {
        match &constraint.constraint {
            TableConstraint::Check(check, _) => definition.checks.push(check.to_string()),
            TableConstraint::ForeignKey { defer_clause, .. } => {
                definition.foreign_keys.push(deferrable(defer_clause.as_ref()));
            }
            _ => {}
        }
    }
    Ok(definition)
}

fn read_column(column: &ColumnDefinition<'_>, definition: &mut Definition) {
    let mut parsed = Parsed { name: unquote(column.col_name.0), no_case: false, generated: None };
    let mut in_foreign_key = false;
    for constraint in column.constraints {
        match &constraint.constraint {
            ColumnConstraint::Check(check) => definition.checks.push(check.to_string()),
            ColumnConstraint::Collate { collation_name } => {
                parsed.no_case = unquote(collation_name.0).eq_ignore_ascii_case("NOCASE");
            }
            ColumnConstraint::Generated { expr, .. } => parsed.generated = Some(expr.to_string()),
            ColumnConstraint::ForeignKey { defer_clause, .. } => {
                definition.foreign_keys.push(deferrable(defer_clause.as_ref()));
                in_foreign_key = true;
            }
            ColumnConstraint::Defer(clause) if in_foreign_key => {
                if let Some(last) = definition.foreign_keys.last_mut() {
                    *last = deferrable(Some(clause));
                }
            }
            _ => {}
        }
    }
    definition.columns.push(parsed);
}

fn deferrable(clause: Option<&DeferSubclause>) -> &'static str {
    match clause {
        Some(DeferSubclause {
            deferrable: true,
            init_deferred: Some(InitDeferredPred::InitiallyDeferred),
        }) => " DEFERRABLE INITIALLY DEFERRED",
        Some(DeferSubclause { deferrable: true, .. }) => " DEFERRABLE",
        _ => "",
    }
}

/// Reads the text of `CREATE INDEX`: its terms and its condition are handed to `then`.
pub(super) fn index<T>(
    sql: &str,
    then: impl FnOnce(&[SortedColumn<'_>], Option<&Expr<'_>>) -> Result<T, String>,
) -> Result<T, String> {
    let bump = Bump::new();
    match statement(&bump, sql)? {
        Stmt::CreateIndex { columns, where_clause, .. } => then(columns, where_clause.as_ref()),
        _ => Err("it is no CREATE INDEX".to_owned()),
    }
}

/// Reads an expression that stands alone and hands it to `then`.
pub(super) fn expression<T>(
    text: &str,
    then: impl FnOnce(&Expr<'_>) -> Result<T, String>,
) -> Result<T, String> {
    let bump = Bump::new();
    let sql = format!("SELECT {text}");
    let Stmt::Select(select) = statement(&bump, &sql)? else {
        return Err(format!("{text} is no expression"));
    };
    match &select.body.select {
        OneSelect::Select { columns: [ResultColumn::Expr(only, None)], from: None, .. } => {
            then(only)
        }
        _ => Err(format!("{text} is no expression")),
    }
}

fn statement<'bump>(bump: &'bump Bump, sql: &'bump str) -> Result<Stmt<'bump>, String> {
    let mut parser = Parser::new(bump, sql.as_bytes());
    match parser.next() {
        Ok(Some(Cmd::Stmt(statement))) => Ok(statement),
        Ok(_) => Err("it cannot be parsed".to_owned()),
        Err(err) => Err(format!("it cannot be parsed: {err}")),
    }
}

/// A name or a string without its quotes.
pub(super) fn unquote(text: &str) -> String {
    let mut inner = text.chars();
    let (quote, close) = match (inner.next(), inner.next_back()) {
        (Some('['), Some(']')) => return inner.as_str().to_owned(),
        (Some(open @ ('"' | '`' | '\'')), Some(close)) => (open, close),
        _ => return text.to_owned(),
    };
    if quote == close {
        inner.as_str().replace(&format!("{quote}{quote}"), &quote.to_string())
    } else {
        text.to_owned()
    }
}
