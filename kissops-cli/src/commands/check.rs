//! `kissops check`.

use std::io::{self, Write as _};

use kissops_core::{
    Error,
    config::{self, Config, ConfigErrors, Environment},
};
use serde_json::json;

use crate::{
    args::Check,
    context::{Context, out, print_json},
    exit::{Exit, Failure},
    render::{
        clean, human,
        table::{Column, Table},
        tree, width,
    },
};

pub(crate) fn run(context: &Context, args: &Check) -> Result<Exit, Failure> {
    let environment = Environment::of_process();
    let found = config::find(context.config.as_deref());
    match found.and_then(|file| config::load(&file, &environment)) {
        Err(errors) => refuse(context, &errors),
        Ok(config) if args.origin => origins(context, &config),
        Ok(config) => definitions(context, &config),
    }
}

fn refuse(context: &Context, errors: &ConfigErrors) -> Result<Exit, Failure> {
    if context.json {
        print_json(&json!({ "ok": false, "errors": errors.errors() }))?;
    } else {
        say(&errors.render())?;
    }
    Err(Failure::Said(Exit::Config))
}

/// What is found in a file is told on stderr line by line, each made harmless.
pub(crate) fn say(text: &str) -> io::Result<()> {
    let mut err = io::stderr().lock();
    text.lines().try_for_each(|line| writeln!(err, "{}", clean::text(line)))
}

fn definitions(context: &Context, config: &Config) -> Result<Exit, Failure> {
    if context.json {
        print_json(&json!({
            "ok": true,
            "file": config.path,
            "warnings": config.warnings,
            "instances": config.instances,
        }))?;
        return Ok(Exit::Ok);
    }
    let (style, mut out) = (context.style(), out());
    for definition in &config.instances {
        let json = serde_json::to_value(definition)
            .map_err(Error::unavailable("the JSON of a definition"))?;
        writeln!(out, "{}", style.bold(definition.name.as_str()))?;
        tree::write(&mut out, &json, 1)?;
    }
    out.flush()?;
    finish(context, config)
}

fn finish(context: &Context, config: &Config) -> Result<Exit, Failure> {
    if !context.quiet {
        say(&config.render_warnings())?;
    }
    context.say(&format!(
        "{} is fine: {}, {}",
        config.path.display(),
        human::count(config.instances.len(), "instance", "instances"),
        human::count(config.templates.len(), "template", "templates"),
    ));
    Ok(Exit::Ok)
}

const COLUMNS: [Column; 3] = [Column::Left("KEY"), Column::Left("FROM"), Column::Rest("VALUE")];

fn origins(context: &Context, config: &Config) -> Result<Exit, Failure> {
    if context.json {
        print_json(&json!({ "ok": true, "file": config.path, "origins": config.origins() }))?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&COLUMNS);
    for origin in config.origins() {
        table.row(vec![
            clean::text(&origin.key).into_owned().into(),
            clean::text(&origin.from).into_owned().into(),
            clean::text(&origin.value).into_owned().into(),
        ]);
    }
    let mut out = out();
    for line in table.lines(width(), context.style()) {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    finish(context, config)
}
