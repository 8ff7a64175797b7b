//! Statements of [`HealthStore`].

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement, Value, document, values,
};
use crate::{
    Error, Result, Timestamp,
    store::{
        HealthStore, HistoryQuery, ProbeName, ProbeResult, ProbeSample, RollUp, RollUpSpan,
        StatusCounts, ValueRange,
    },
};

fn result(row: &mut Row) -> Result<ProbeResult, Damage> {
    Ok(ProbeResult {
        probe: ProbeName(row.get(0)?),
        at: row.get(1)?,
        status: row.parsed(2)?,
        value: row.get(3)?,
        unit: row.get(4)?,
        message: row.get(5)?,
        details: document(row, 6)?,
        took: row.get(7)?,
    })
}

fn sample(row: &mut Row) -> Result<ProbeSample, Damage> {
    Ok(ProbeSample {
        at: row.get(0)?,
        status: row.parsed(1)?,
        value: row.get(2)?,
        took: row.get(3)?,
    })
}

/// Four columns from `at` on.
fn counts(row: &mut Row, at: usize) -> Result<StatusCounts, Damage> {
    Ok(StatusCounts {
        pass: row.get(at)?,
        warn: row.get(at + 1)?,
        fail: row.get(at + 2)?,
        unknown: row.get(at + 3)?,
    })
}

fn roll_up(row: &mut Row) -> Result<RollUp, Damage> {
    let values = match row.get::<u64>(5)? {
        0 => None,
        count => Some(ValueRange { count, min: row.get(6)?, max: row.get(7)?, sum: row.get(8)? }),
    };
    Ok(RollUp { start: row.get(0)?, counts: counts(row, 1)?, values })
}

/// Rows of one statement, at most. Few lengths, so that few statements have to be prepared.
const LENGTHS: [usize; 3] = [64, 8, 1];

/// `INSERT INTO {into} VALUES …` for all `rows`, many rows to a statement: on a server each one is a round trip.
fn inserted(mut batch: Batch, into: &str, rows: Vec<Vec<Value>>, conflict: &str) -> Batch {
    let mut rows = rows.into_iter().peekable();
    while let Some(first) = rows.peek() {
        let (width, left) = (first.len(), rows.len());
        let length = LENGTHS.into_iter().find(|length| *length <= left).unwrap_or(1);
        let places: Vec<String> = (0..length)
            .map(|row| {
                let of_row: Vec<_> =
                    (1..=width).map(|column| format!("?{}", row * width + column)).collect();
                format!("({})", of_row.join(", "))
            })
            .collect();
        let sql = format!("INSERT INTO {into} VALUES {} ON CONFLICT {conflict}", places.join(", "));
        let values = rows.by_ref().take(length).flatten().collect();
        batch = batch.step(Statement::new(sql, values));
    }
    batch
}

/// The columns of a sample, with which those of a latest result begin.
fn sample_values(result: &ProbeResult) -> Vec<Value> {
    values![result.probe.as_str(), result.at, result.status.as_str(), result.value, result.took]
}

fn latest_values(result: &ProbeResult) -> Vec<Value> {
    // A map of texts always serializes.
    let details = serde_json::to_string(&result.details).unwrap_or_default();
    let mut values = sample_values(result);
    values.extend(values![result.unit.as_str(), result.message.as_str(), details]);
    values
}

/// `results` are sorted by probe and time.
fn recorded(results: &[ProbeResult]) -> Batch {
    let samples = results.iter().map(sample_values).collect();
    // Of each probe the last; of one time the first, which is the one that stays in history.
    let of_probes = results.chunk_by(|one, next| one.probe == next.probe);
    let latest = of_probes.filter_map(|of_probe| {
        let last = of_probe.last()?.at;
        of_probe.iter().find(|result| result.at == last).map(latest_values)
    });
    let batch = inserted(
        Batch::new(Durability::Process),
        "probe_samples (probe, at, status, value, took_us)",
        samples,
        "(probe, at) DO NOTHING",
    );
    inserted(
        batch,
        "probe_latest (probe, at, status, value, took_us, unit, message, details)",
        latest.collect(),
        "(probe) DO UPDATE SET at = excluded.at, status = excluded.status, value = excluded.value,
            took_us = excluded.took_us, unit = excluded.unit, message = excluded.message, details = excluded.details
            WHERE excluded.at > probe_latest.at",
    )
}

/// Sums up what lies in `[?1, ?2)` by spans of `?3` µs. `columns` are the four counts, then how many values there are,
/// the smallest, the largest and their sum.
fn summed(span: RollUpSpan, source: &str, time: &str, columns: &str) -> String {
    format!(
        "INSERT INTO probe_roll_ups (probe, span, start_at, passes, warns, fails, unknowns, readings, value_min, value_max, value_sum)
        SELECT probe, '{span}', {time} / ?3 * ?3, {columns} FROM {source} {time} >= ?1 AND {time} < ?2
        GROUP BY 1, 3 ORDER BY 1, 3
        ON CONFLICT (probe, span, start_at) DO UPDATE SET passes = excluded.passes, warns = excluded.warns,
        fails = excluded.fails, unknowns = excluded.unknowns, readings = excluded.readings,
        value_min = excluded.value_min, value_max = excluded.value_max, value_sum = excluded.value_sum
        WHERE excluded.passes + excluded.warns + excluded.fails + excluded.unknowns
        > probe_roll_ups.passes + probe_roll_ups.warns + probe_roll_ups.fails + probe_roll_ups.unknowns"
    )
}

const OF_SAMPLES: &str = "CAST(sum(CASE status WHEN 'pass' THEN 1 ELSE 0 END) AS BIGINT),
    CAST(sum(CASE status WHEN 'warn' THEN 1 ELSE 0 END) AS BIGINT),
    CAST(sum(CASE status WHEN 'fail' THEN 1 ELSE 0 END) AS BIGINT),
    CAST(sum(CASE status WHEN 'unknown' THEN 1 ELSE 0 END) AS BIGINT),
    count(value), min(value), max(value), sum(value)";
const OF_MINUTES: &str = "CAST(sum(passes) AS BIGINT), CAST(sum(warns) AS BIGINT), CAST(sum(fails) AS BIGINT),
    CAST(sum(unknowns) AS BIGINT), CAST(sum(readings) AS BIGINT), min(value_min), max(value_max), sum(value_sum)";

fn length_us(span: RollUpSpan) -> i64 {
    match span {
        RollUpSpan::Minute => 60_000_000,
        RollUpSpan::Hour => 3_600_000_000,
    }
}

#[async_trait]
impl<E: Engine> HealthStore for E {
    async fn record_results(&self, mut results: Vec<ProbeResult>) -> Result<()> {
        if let Some(odd) =
            results.iter().find(|result| result.value.is_some_and(|v| !v.is_finite()))
        {
            let key = format!("the value of probe `{}`", odd.probe);
            return Err(Error::invalid(key, "must be finite"));
        }
        // One order for everybody: two hosts that wait for each other's rows would be a deadlock.
        results.sort_by(|a, b| (&a.probe, a.at).cmp(&(&b.probe, b.at)));
        self.write(recorded(&results)).await.map(drop)
    }

    async fn latest_results(&self) -> Result<Vec<ProbeResult>> {
        let sql = "SELECT probe, at, status, value, unit, message, details, took_us FROM probe_latest ORDER BY probe";
        self.fetch(Statement::new(sql, vec![]), result).await
    }

    async fn samples(&self, query: HistoryQuery) -> Result<Vec<ProbeSample>> {
        let sql = "SELECT at, status, value, took_us FROM probe_samples
            WHERE probe = ?1 AND at >= ?2 AND at < ?3 ORDER BY at LIMIT ?4";
        let values = values![query.probe.as_str(), query.since, query.until, query.limit];
        self.fetch(Statement::new(sql, values), sample).await
    }

    async fn roll_up(&self, since: Timestamp, until: Timestamp) -> Result<()> {
        let hour = length_us(RollUpSpan::Hour);
        let first = since.0.div_euclid(hour).saturating_mul(hour);
        let last = until.0.saturating_add(hour - 1).div_euclid(hour).saturating_mul(hour);
        let minutes = summed(RollUpSpan::Minute, "probe_samples WHERE", "at", OF_SAMPLES);
        let source = "probe_roll_ups WHERE span = 'minute' AND";
        let hours = summed(RollUpSpan::Hour, source, "start_at", OF_MINUTES);
        let span = |sql, length| Statement::new(sql, values![first, last, length]);
        let batch = Batch::new(Durability::Process)
            .step(span(minutes, length_us(RollUpSpan::Minute)))
            .step(span(hours, hour));
        self.write(batch).await.map(drop)
    }

    async fn roll_ups(&self, span: RollUpSpan, query: HistoryQuery) -> Result<Vec<RollUp>> {
        let sql = "SELECT start_at, passes, warns, fails, unknowns, readings, value_min, value_max, value_sum FROM probe_roll_ups
            WHERE probe = ?1 AND span = ?2 AND start_at >= ?3 AND start_at < ?4 ORDER BY start_at LIMIT ?5";
        let values =
            values![query.probe.as_str(), span.as_str(), query.since, query.until, query.limit];
        self.fetch(Statement::new(sql, values), roll_up).await
    }

    async fn status_counts(
        &self,
        span: RollUpSpan,
        probe: &ProbeName,
        since: Timestamp,
        until: Timestamp,
    ) -> Result<StatusCounts> {
        let sql = "SELECT CAST(coalesce(sum(passes), 0) AS BIGINT), CAST(coalesce(sum(warns), 0) AS BIGINT),
            CAST(coalesce(sum(fails), 0) AS BIGINT), CAST(coalesce(sum(unknowns), 0) AS BIGINT) FROM probe_roll_ups
            WHERE probe = ?1 AND span = ?2 AND start_at >= ?3 AND start_at < ?4";
        let values = values![probe.as_str(), span.as_str(), since, until];
        let found = self.fetch(Statement::new(sql, values), |row| counts(row, 0)).await?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    async fn forget_probe(&self, probe: &ProbeName) -> Result<()> {
        let sql = "DELETE FROM probe_latest WHERE probe = ?1";
        let forget = Statement::new(sql, values![probe.as_str()]);
        self.run(Durability::Process, forget).await.map(drop)
    }

    async fn prune_samples(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let sql = "DELETE FROM probe_samples WHERE (probe, at) IN (
            SELECT probe, at FROM probe_samples WHERE at < ?1 ORDER BY at, probe LIMIT ?2)";
        Ok(self
            .run(Durability::Process, Statement::new(sql, values![before, limit]))
            .await?
            .changed)
    }

    async fn prune_roll_ups(&self, span: RollUpSpan, before: Timestamp, limit: u32) -> Result<u64> {
        let sql = "DELETE FROM probe_roll_ups WHERE span = ?1 AND (probe, start_at) IN (
            SELECT probe, start_at FROM probe_roll_ups WHERE span = ?1 AND start_at < ?2 ORDER BY start_at, probe LIMIT ?3)";
        let prune = Statement::new(sql, values![span.as_str(), before, limit]);
        Ok(self.run(Durability::Process, prune).await?.changed)
    }
}
