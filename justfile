# `just` lists the habits; each is one line that can be typed as well.

# Lists them.
default:
    @just --list

# Does it compile?
check:
    cargo check --all-targets

# Formats.
fmt:
    cargo fmt

# What CI demands of the code.
lint:
    cargo fmt --check && cargo clippy --all-targets -- -D warnings

# Every test; or `just test --lib wheel::`.
test *args:
    cargo test {{args}}

# The property tests, a hundred times as many cases, drawn at random.
thorough times="100":
    THOROUGH={{times}} cargo test --release --lib

# Simulated power cuts: so many of the log, and so many of the store.
power-cuts each="6000":
    POWER_CUTS={{each}} nice cargo test --release --lib -- --nocapture after_power_cuts

# The documentation of the code, private items too.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items

# Micro-benchmarks of the wheel and the fold.
bench *args:
    cargo bench {{args}}

# A cluster, a receiver, and tasks that fire before your eyes.
demo:
    cargo run --release -- dev --demo

# Disturbs a cluster and checks it: `just jepsen --minutes 60 --seed 7 --nemesis kill,pause --keep`.
jepsen *args:
    JEPSEN="{{args}}" cargo test --test jepsen-style long -- --ignored --nocapture

# Whole nodes in one thread, from one seed: `just simulate --seeds 500 --seconds 60 --jobs 2`, or
# `just simulate --seed 7 --words`, which tells what happens.
simulate *args:
    SIMULATE="{{args}}" cargo test --profile simulate --test simulate long -- --ignored --nocapture

# Simulations with the power going at every operation of the disk in every step.
crash-points *args:
    SIMULATE="{{args}}" cargo test --profile simulate --test simulate at_every_point -- --ignored --nocapture

# The same seed twice must give the same bytes: on twenty seeds.
same-bytes *args:
    SIMULATE="{{args}}" cargo test --profile simulate --test simulate twenty_seeds -- --ignored --nocapture

# Which mistake, made on purpose, is caught by what: of all, or of those that are named; `tests` or
# `harness` among the names leaves the other out.
seeded-bugs *names:
    SEEDED_BUGS="{{names}}" cargo test --features seeded-bugs --test jepsen-style seeded_bugs -- --ignored --nocapture

# What all runs of the fault harness so far add up to.
jepsen-ledger:
    cargo test --test jepsen-style sums -- --ignored --exact --nocapture

# Licences, advisories and bans of the dependencies.
deny:
    cargo deny check

# What CI runs.
ci:
    .ci/run
