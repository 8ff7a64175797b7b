#!/bin/sh
# Becomes the echo bot, as cargo has built it: release first, then debug. Compiles it only where there is none.
target=${CARGO_TARGET_DIR:-../../target}
for build in release debug; do
  bot=$target/$build/examples/echo_bot
  [ -x "$bot" ] && exec "$bot" "$@"
done
echo "echo_bot is not built; compiling it" >&2
exec cargo run --quiet -p kissops-examples --example echo_bot -- "$@"
