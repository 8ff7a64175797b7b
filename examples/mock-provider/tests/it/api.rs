//! The control side over HTTP does what the library's does.

use kissops_mock_provider::MockProvider;
use serde_json::{Value, json};

use crate::{Got, refresh, request, start, validate};

fn ask(mock: &MockProvider, line: &str, body: &Value) -> Got {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    request(mock.address(), line, &[("content-type", "application/json")], &body)
}

fn ok(mock: &MockProvider, line: &str, body: &Value) -> Value {
    let got = ask(mock, line, body);
    assert_eq!(got.status, 200, "{line}: {}", String::from_utf8_lossy(&got.body));
    got.json()
}

#[tokio::test]
async fn accounts_are_made_and_looked_at() {
    let mock = start().await;
    let new = json!({"names": ["ann"], "count": 3, "prefix": "u", "scopes": ["a"], "lifetime_ms": 60_000});
    let rows = ok(&mock, "POST /_mock/accounts", &new);
    let names: Vec<&str> =
        rows.as_array().unwrap().iter().map(|row| row["account"].as_str().unwrap()).collect();
    assert_eq!(names, ["ann", "u0", "u1", "u2"]);
    let row = &rows[0];
    assert_eq!((&row["provider"], &row["scopes"]), (&json!("mock"), &json!(["a"])));
    assert!(row["expires_at"].as_str().unwrap().ends_with('Z'), "{row}");
    let access = row["access_token"].as_str().unwrap();
    assert_eq!(validate(&mock, access).json()["expires_in"], 60);
    refresh(&mock, row["refresh_token"].as_str().unwrap());
    let view = ok(&mock, "GET /_mock/accounts/ann", &Value::Null);
    assert_eq!(
        (&view["grants"][0]["presented"], &view["grants"][0]["committed"]),
        (&json!(1), &json!(1))
    );
    assert!(!view.to_string().contains(access), "{view}");
    let view = ok(&mock, "GET /_mock/accounts/ann?secrets=true", &Value::Null);
    assert!(view.to_string().contains(access), "{view}");
    assert_eq!(ok(&mock, "GET /_mock/accounts", &Value::Null)["accounts"][3], "u2");
    let found = ok(&mock, "POST /_mock/lookup", &json!({ "token": access }));
    assert_eq!(
        (&found["token"]["kind"], &found["token"]["live"]),
        (&json!("access"), &json!(true))
    );
    assert_eq!(ok(&mock, "POST /_mock/lookup", &json!({"token": "foreign"}))["token"], Value::Null);
    assert_eq!(ok(&mock, "POST /_mock/accounts/ann/expire", &Value::Null)["tokens"], 2);
    assert_eq!(ok(&mock, "POST /_mock/accounts/ann/disconnect", &Value::Null)["grants"], 1);
    let ledger = ok(&mock, "GET /_mock/ledger", &Value::Null);
    assert_eq!(ledger["requests"].as_array().unwrap().len(), 2);
    assert_eq!(ledger["tokens"].as_array().unwrap().len(), 9);
    assert_eq!(ledger["totals"], ok(&mock, "GET /_mock/totals", &Value::Null));
}

#[tokio::test]
async fn knobs_are_overlaid_or_replaced() {
    let mock = start().await;
    let knobs = json!({"knobs": {"rotation": "one-time", "fault": {"answer": "bad_gateway"}}});
    ok(&mock, "POST /_mock/knobs", &knobs);
    let now =
        ok(&mock, "POST /_mock/knobs", &json!({"knobs": {"fault": null, "hold": "after_commit"}}));
    assert_eq!(now, json!({"rotation": "one-time", "hold": "after_commit"}));
    let now = ok(&mock, "PUT /_mock/knobs", &json!({"knobs": {"token_rate": 5}}));
    assert_eq!(now, ok(&mock, "GET /_mock/knobs", &Value::Null));
    assert_eq!(now, json!({"token_rate": 5}));
    for wrong in [
        json!({"knobs": {"rotatoin": "one-time"}}),
        json!({"knobs": {"rotation": "sometimes"}}),
        json!({"knobs": {"fault_share": 2}}),
        json!({"knobs": 1}),
        json!({"account": "nobody", "knobs": {}}),
        json!({"account": "a", "client": "b", "knobs": {}}),
    ] {
        let got = ask(&mock, "POST /_mock/knobs", &wrong);
        assert!(got.status == 422 && !got.text("error").is_empty(), "{wrong}: {got:?}");
    }
    assert_eq!(ask(&mock, "POST /_mock/nothing", &Value::Null).status, 404);
}

#[tokio::test]
async fn scripts_storms_clocks_and_clients() {
    let mock = start().await;
    let client =
        json!({"id": "c", "secret": null, "provider": "twitch", "knobs": {"rotation": "rotating"}});
    ok(&mock, "POST /_mock/clients", &client);
    assert_eq!(ok(&mock, "GET /_mock/clients", &Value::Null)["clients"][2], "c");
    let row = ok(&mock, "POST /_mock/accounts", &json!({"names": ["ann"]}))[0].clone();
    let token = row["refresh_token"].as_str().unwrap();
    ok(
        &mock,
        "POST /_mock/script",
        &json!({"account": "ann", "steps": [{"answer": "server_error", "times": 2}]}),
    );
    assert_eq!(refresh(&mock, token).status, 500);
    ok(&mock, "DELETE /_mock/script", &Value::Null);
    assert_eq!(refresh(&mock, token).status, 200);
    ok(&mock, "POST /_mock/storm", &json!({"validate": true}));
    assert_eq!(refresh(&mock, token).status, 400);
    ok(&mock, "DELETE /_mock/storm", &Value::Null);
    assert_eq!(refresh(&mock, token).status, 200);
    let before = ok(&mock, "GET /_mock/clock", &Value::Null)["now_us"].as_i64().unwrap();
    let after = ok(&mock, "POST /_mock/clock", &json!({"advance_ms": 3_600_000}));
    assert!(after["now_us"].as_i64().unwrap() >= before + 3_600_000_000);
    let stopped = ok(&mock, "POST /_mock/clock", &json!({"stopped": true, "now_ms": 5}));
    assert_eq!(stopped["now_us"], 5000);
    assert_eq!(ok(&mock, "POST /_mock/release", &Value::Null)["released"], 0);
    assert_eq!(ask(&mock, "POST /_mock/devices", &json!({"user_code": "X"})).status, 422);
    ok(&mock, "POST /_mock/reset", &Value::Null);
    assert_eq!(mock.totals().tokens, 0);
    let help = request(mock.address(), "GET /_mock/", &[], "");
    assert!(String::from_utf8(help.body).unwrap().contains("/_mock/ledger"));
}

#[tokio::test]
async fn a_hundred_thousand_accounts_at_once() {
    let mock = start().await;
    let new = json!({"count": 100_000, "lifetime_ms": 3_600_000, "spread_ms": 600_000});
    let rows = ok(&mock, "POST /_mock/accounts", &new);
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 100_000);
    let last = rows[99_999]["access_token"].as_str().unwrap();
    let left = validate(&mock, last).json()["expires_in"].as_i64().unwrap();
    assert!((4000..=4200).contains(&left), "{left}");
    assert_eq!(refresh(&mock, rows[77_777]["refresh_token"].as_str().unwrap()).status, 200);
}
