//! The table of instances that `status`, `top` and `up` show.

use kissops_core::{
    Timestamp,
    control::{Status, Verdict},
    supervisor::{InstanceStatus, StateName},
};

use super::{
    Style, clean, human,
    table::{Cell, Column, Table},
};

const COLUMNS: [Column; 8] = [
    Column::Left("NAME"),
    Column::Left("STATE"),
    Column::Right("PID"),
    Column::Right("UPTIME"),
    Column::Right("RESTARTS"),
    Column::Right("MEMORY"),
    Column::Right("CPU%"),
    Column::Rest("NOTE"),
];

/// The lines of the table, titles first.
pub(crate) fn lines<'a>(
    instances: impl IntoIterator<Item = &'a InstanceStatus>,
    now: Timestamp,
    width: usize,
    style: Style,
) -> Vec<String> {
    let mut table = Table::new(&COLUMNS);
    for instance in instances {
        table.row(row(instance, now));
    }
    table.lines(width, style)
}

fn row(instance: &InstanceStatus, now: Timestamp) -> Vec<Cell> {
    let or_dash = |text: Option<String>| Cell::from(text.unwrap_or_else(|| "-".to_owned()));
    vec![
        instance.name.as_str().into(),
        state(instance),
        or_dash(instance.pid.map(|pid| pid.to_string())),
        or_dash(instance.uptime_seconds.map(human::span)),
        instance.restarts.to_string().into(),
        or_dash(instance.rss_bytes.map(human::size)),
        or_dash(instance.cpu_percent.map(|percent| format!("{percent:.1}"))),
        note(instance, now).into(),
    ]
}

fn state(instance: &InstanceStatus) -> Cell {
    match instance.state {
        StateName::Running if !instance.ready => Cell::painted("not ready", Style::yellow),
        StateName::Running => Cell::painted("running", Style::green),
        StateName::Stopped => Cell::painted("stopped", Style::dim),
        state @ (StateName::Failed | StateName::NeedsReauth) => {
            Cell::painted(state.as_str(), Style::red)
        }
        state => Cell::painted(state.as_str(), Style::yellow),
    }
}

/// What the instance says of itself while all is well, else why it is not.
fn note(instance: &InstanceStatus, now: Timestamp) -> String {
    if instance.state == StateName::Running && instance.ready {
        let said = instance.status_text.as_deref().filter(|text| !text.is_empty());
        return clean::text(said.unwrap_or(&instance.description)).into_owned();
    }
    let reason = clean::text(&instance.reason);
    match instance.next_start_at {
        Some(at) if instance.state == StateName::Backoff => {
            format!("{reason}; again in {}", human::span(at.since(now).as_secs_f64().ceil()))
        }
        _ => reason.into_owned(),
    }
}

/// `kissbot: 3 instances, 2 running, 1 failed - fail`.
pub(crate) fn headline(status: &Status, style: Style) -> String {
    let mut text = format!(
        "{}: {} instance{}",
        clean::text(&status.fleet.name),
        status.instances.len(),
        if status.instances.len() == 1 { "" } else { "s" }
    );
    for state in [
        StateName::Running,
        StateName::Starting,
        StateName::Backoff,
        StateName::Stopping,
        StateName::Stopped,
        StateName::Failed,
        StateName::NeedsReauth,
    ] {
        let count = status.instances.iter().filter(|instance| instance.state == state).count();
        if count > 0 {
            text.push_str(", ");
            text.push_str(&style.state(state, &format!("{count} {state}")));
        }
    }
    let verdict = match status.verdict {
        Verdict::Pass => style.green("all well"),
        Verdict::Warn => style.yellow("not settled"),
        Verdict::Fail => style.red("needs attention"),
    };
    format!("{text} - {verdict}")
}
