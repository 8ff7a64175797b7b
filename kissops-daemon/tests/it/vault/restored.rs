//! VLT-10: a store that was restored from yesterday's copy, beside the living one. No live grant is killed by it.

use std::{fs, path::Path, sync::Arc};

use kissops_core::{
    store::{GrantKey, GrantState},
    vault::{TokenVault as _, Vault},
};
use kissops_mock_provider::Endpoint;

use super::site::{CLASSES, Setup, Site, records, tokens_of};
use crate::harness::until_async;

const GRANTS: u32 = 3;

/// Everything that a folder's backup would have, once nobody writes there.
async fn copy(from: &Path, to: &Path) {
    let log = from.join("kissops.db-wal");
    until_async("the database is closed", async || !log.exists()).await;
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn in_folder(setup: &Setup, dir: &Path) -> Setup {
    let store = format!("sqlite:{}", dir.join("kissops.db").display());
    Setup { store, dir: dir.to_owned(), ..setup.clone() }
}

/// A vault of its own process, as far as a store and a folder are concerned.
async fn opened(setup: &Setup) -> (Vault, Arc<dyn kissops_core::store::Store>) {
    let store = setup.store().await;
    let vault = setup.vault(Arc::clone(&store), None).await;
    vault.start();
    (vault, store)
}

async fn refresh_all(vault: &Vault, keys: &[GrantKey]) {
    for key in keys {
        vault.refresh(key).await.unwrap();
    }
}

/// How often the provider was shown a refresh token of a grant that may lose it by that.
fn presented(site: &Site, keys: &[GrantKey]) -> Vec<u32> {
    let used_up = keys.iter().filter(|key| key.provider != "reusable");
    used_up.map(|key| site.view(&key.account).counts.presented).collect()
}

/// A copy at work: what may be used twice is freed by a probe and refreshed; of the rest nothing is sent, whoever asks.
async fn is_harmless(site: &Site, copy: &Setup, keys: &[GrantKey], what: &str) {
    let before = presented(site, keys);
    let (vault, store) = opened(copy).await;
    until_async(&format!("{what}: what is reusable is freed"), async || {
        let all = records(&*store).await;
        all.iter().all(|record| {
            let freed = matches!(record.status.state, GrantState::Active { .. });
            freed == (record.grant.key.provider == "reusable")
        })
    })
    .await;
    for key in keys {
        let asked = vault.refresh(key).await;
        if key.provider == "reusable" {
            asked.unwrap();
        } else {
            let err = asked.unwrap_err();
            assert!(err.chain().contains("kissops vault adopt"), "{what}: {}", err.chain());
            // That it is refused says nothing against the token, which nobody has to be asked for.
            let record = vault.grant(key).await.unwrap();
            assert!(
                matches!(record.status.state, GrantState::Fenced { .. }),
                "{what}: {record:#?}"
            );
        }
    }
    vault.close().await;
    assert_eq!(presented(site, keys), before, "{what}");
}

#[tokio::test]
async fn a_copy_beside_the_living_store_kills_nothing() {
    let mut site = Site::new().await;
    let live = in_folder(&site.setup, &site.dir.path().join("live"));
    fs::create_dir(&live.dir).unwrap();
    let rows: Vec<_> = CLASSES.into_iter().flat_map(|class| site.add(class, GRANTS)).collect();
    let keys: Vec<_> = rows.iter().map(|row| tokens_of(row).key).collect();

    let (vault, store) = opened(&live).await;
    for row in &rows {
        vault.put(tokens_of(row)).await.unwrap();
    }
    refresh_all(&vault, &keys).await;
    vault.close().await;
    drop((vault, store));
    let yesterday = site.dir.path().join("yesterday");
    copy(&live.dir, &yesterday).await;

    // Today: what yesterday's copy has is used up by now.
    let (vault, store) = opened(&live).await;
    for _ in 0..2 {
        refresh_all(&vault, &keys).await;
    }
    for (name, keeps_witness) in [("copied", true), ("without its witness", false)] {
        let other = in_folder(&live, &site.dir.path().join(name));
        copy(&yesterday, &other.dir).await;
        if !keeps_witness {
            fs::remove_file(other.dir.join("vault.witness")).unwrap();
        }
        is_harmless(&site, &other, &keys, name).await;
        // It was seen through once: it is not forgotten by the next start.
        is_harmless(&site, &other, &keys, &format!("{name}, again")).await;
    }
    refresh_all(&vault, &keys).await;
    vault.close().await;
    drop((vault, store));

    // In the place of the living one, whose witness is newer than it.
    let today = site.dir.path().join("today");
    copy(&live.dir, &today).await;
    for suffix in ["", "-wal", "-shm"] {
        let file = format!("kissops.db{suffix}");
        let _ = fs::remove_file(live.dir.join(&file));
        if yesterday.join(&file).exists() {
            fs::copy(yesterday.join(&file), live.dir.join(&file)).unwrap();
        }
    }
    is_harmless(&site, &live, &keys, "in place").await;

    // The newest copy, once nothing else is in use: fenced as well, and freed by hand.
    let moved = in_folder(&live, &site.dir.path().join("moved"));
    copy(&today, &moved.dir).await;
    is_harmless(&site, &moved, &keys, "moved").await;
    let (vault, store) = opened(&moved).await;
    for key in &keys {
        vault.adopt(key).await.unwrap();
    }
    refresh_all(&vault, &keys).await;
    assert!(site.verify_on(&*store, &vault).await.is_empty());
    vault.close().await;
    let tokens = site.mock.ledger(kissops_mock_provider::Secrets::Hidden);
    let asked = tokens.requests.iter().filter(|one| one.endpoint == Endpoint::Token).count();
    println!("{asked} token requests, none of them with a used token");
}
