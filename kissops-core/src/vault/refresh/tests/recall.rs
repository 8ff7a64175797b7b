//! What is masked after a restart.

use std::{collections::BTreeSet, sync::Arc};

use super::world::{Stage, builder, key};
use crate::{
    redact::Redactor,
    vault::{MaxAge, RotationClass::Reusable, SecretKind, TokenVault as _},
};

#[tokio::test]
async fn what_was_handed_out_before_a_restart_is_masked_from_the_start() {
    let stage = Stage::new(Reusable, 3).await;
    let bot = || BTreeSet::from([crate::id::InstanceName::new("bot").unwrap()]);
    stage.vault.bind(&key(0), bot()).await.unwrap();
    stage.vault.bind(&key(1), bot()).await.unwrap();
    stage.vault.refresh(&key(1)).await.unwrap();
    let secrets = stage.vault.secrets().unwrap();
    let value = "whsec-5f2c".into();
    secrets.set("webhook", SecretKind::WebhookUrl, &value, MaxAge::Keep).await.unwrap();
    stage.vault.close().await;

    let redactor = Arc::new(Redactor::new());
    let next = builder(&stage.world, &stage.store).redactor(Arc::clone(&redactor));
    let next = next.build().await.unwrap();
    let masked = |text: &str| redactor.current().mask_str(text).into_owned();
    assert_eq!(masked("access-0-1"), "***");
    assert_eq!(masked("access-1-2"), "***");
    assert_eq!(masked("access-1-1"), "***", "the pair before is in the bot's memory yet");
    assert_eq!(masked("refresh-1-1 whsec-5f2c"), "*** ***");
    assert_eq!(masked("access-2-1"), "access-2-1", "nobody has it");
    next.close().await;
}

#[tokio::test]
async fn a_damaged_token_does_not_keep_the_vault_from_opening() {
    let stage = Stage::new(Reusable, 2).await;
    let bot = || BTreeSet::from([crate::id::InstanceName::new("bot").unwrap()]);
    for account in 0..2 {
        stage.vault.bind(&key(account), bot()).await.unwrap();
    }
    stage.vault.close().await;
    let of = |record: crate::store::GrantRecord| record.grant.id;
    let (one, other) = (of(stage.record(0).await), of(stage.record(1).await));
    let foreign = stage.store.sealed_tokens(other).await.unwrap().remove(0).sealed;
    let own = stage.store.sealed_tokens(one).await.unwrap().remove(0);
    stage.store.reseal_token(own.id, own.sealed.key, foreign).await.unwrap();
    let redactor = Arc::new(Redactor::new());
    let next = builder(&stage.world, &stage.store).redactor(Arc::clone(&redactor));
    let next = next.build().await.unwrap();
    assert_eq!(redactor.current().mask_str("access-1-1"), "***");
    next.close().await;
}
