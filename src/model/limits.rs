//! Every bound in one place, each with its reason. A setting may lower some of them.

use super::Span;

/// Longest application id, in bytes: it is part of every key on disk and of every metric label.
pub const APP_BYTES_MAX: usize = 64;
/// Longest task id, in bytes: room for an order number or a UUID with a prefix.
pub const ID_BYTES_MAX: usize = 128;
/// Largest task as JSON, in bytes. A scheduler carries references, not documents.
pub const TASK_BYTES_MAX: usize = 1 << 20;
/// Largest body of a batch submit, in bytes.
pub const BATCH_BODY_BYTES_MAX: usize = 64 << 20;
/// How much of an oversized body is read and dropped so that the client sees the answer.
pub const DRAIN_BYTES_MAX: usize = 16 << 20;
/// Longest URL, in bytes; what common servers accept.
pub const URL_BYTES_MAX: usize = 8 << 10;
/// Most headers on one callback.
pub const HEADERS_MAX: usize = 64;
/// Longest header value, in bytes.
pub const HEADER_BYTES_MAX: usize = 8 << 10;
/// Most labels on one task: labels are indexed.
pub const LABELS_MAX: usize = 16;
/// Longest label key or value, in bytes.
pub const LABEL_BYTES_MAX: usize = 128;
/// Most entries of a listed back-off.
pub const BACKOFF_LIST_MAX: usize = 64;
/// Most attempts a policy may ask for.
pub const ATTEMPTS_MAX: u32 = 10_000;
/// Longest time-out of one callback: an owner change costs at most this much work twice.
pub const TIMEOUT_MAX: Span = Span::minutes(15);
/// Longest delay, retry delay, acceptance or age: about a century.
pub const SPAN_MAX: Span = Span::days(36_525);
/// Default time-out of one callback.
pub const TIMEOUT_DEFAULT: Span = Span::seconds(10);
/// Default wait for a completion after a 202.
pub const ACCEPT_TIMEOUT_DEFAULT: Span = Span::hours(1);
/// Default number of attempts, the first included.
pub const ATTEMPTS_DEFAULT: u32 = 3;
/// Default jitter, in thousandths of the delay.
pub const JITTER_DEFAULT_MILLI: u32 = 100;
/// Most tasks one `Trigger` folds, so that no fold holds the state for longer than 5 ms.
pub const TRIGGER_MAX: u32 = 8_192;
/// Most open attempts one `Assign` may redispatch, for the same reason.
pub const ASSIGN_MAX: usize = 8_192;
/// Most finished tasks one `Retire` drops, for the same reason.
pub const RETIRE_MAX: u32 = 4_096;
/// Former tasks of one id whose histories one answer tells, the newest first: an id that is used
/// again every minute would fill it without bound.
pub const PAST_SHOWN_MAX: usize = 16;
/// Events in one log entry at most: bounds the time one fold holds the state.
pub const BATCH_EVENTS_MAX: usize = 1_024;
/// Bytes in one log entry at most, unless a single event is larger.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Memory that decoding one record may ask for: four times the largest frame of a snapshot, since
/// what is decoded is larger than its bytes.
pub const DECODE_BYTES_MAX: usize = 256 << 20;
/// History rows kept for one task; the oldest after the first one give way.
pub const HISTORY_ROWS_MAX: usize = 512;
/// How much of an answer is kept with the attempt.
pub const ANSWER_KEPT_BYTES: usize = 1 << 10;
/// How much of an answer is read at all.
pub const ANSWER_READ_BYTES: usize = 64 << 10;
/// Longest error text kept with a task.
pub const ERROR_BYTES_MAX: usize = 512;
/// Shards of a new cluster: enough to spread over a dozen nodes evenly.
pub const SHARDS_DEFAULT: u16 = 64;
/// Most shard sets beside the default one: each is a name and a number that every replica keeps.
pub const SHARD_SETS_MAX: usize = 64;
/// Longest name of a shard set, in bytes.
pub const SHARD_SET_BYTES_MAX: usize = 64;
/// Most shards of a set: one for each of a thousand consumers, four times over.
pub const SHARD_SET_TOTAL_MAX: u16 = 4_096;
/// A fill takes what is due within this time, unless it says otherwise.
pub const SHARD_FILL_WINDOW: Span = Span::minutes(2);
/// Replicas compare their state hashes at multiples of this index.
pub const HASH_EVERY: u64 = 256;
/// So many of those hashes are kept.
pub const HASHES_KEPT: usize = 64;
/// Page size of lists: default and most.
pub const PAGE_DEFAULT: usize = 100;
/// See [`PAGE_DEFAULT`].
pub const PAGE_MAX: usize = 1_000;
/// Records one page examines at most, so that a filter that matches nothing stays cheap.
pub const PAGE_EXAMINED_MAX: usize = 20_000;
/// Grace between a callback's time-out and the moment the log gives up waiting for its outcome.
pub const OUTCOME_GRACE: Span = Span::seconds(30);
/// A bucket of the progress checkpoint spans 2 to the power of this in log positions: fine enough
/// to follow, and few enough.
pub const PROGRESS_BUCKET_BITS: u32 = 10;
/// Buckets per shard, so that the progress of 64 shards is 100 kB at most, hashed in well below
/// a millisecond.
pub const PROGRESS_BUCKETS_MAX: usize = 64;
/// Applications paused at once: every node keeps them in memory, hashes them, and tells its
/// executor all of them at each change.
pub const PAUSED_APPS_MAX: usize = 1_000;
/// Longest reason for a pause, of an application or a schedule, in bytes.
pub const REASON_BYTES_MAX: usize = 512;
/// Longest expression, in bytes: a list of all minutes has 170.
pub const EXPRESSION_BYTES_MAX: usize = 512;
/// Most expressions of one schedule: each is asked for its next instant.
pub const EXPRESSIONS_MAX: usize = 32;
/// Most dates that one schedule excludes: the holidays of a century.
pub const EXCLUDED_DATES_MAX: usize = 2_000;
/// Shortest period of `@every`: the finest that an expression can say.
pub const EVERY_MIN: Span = Span::seconds(1);
/// Longest jitter of a schedule.
pub const SCHEDULE_JITTER_MAX: Span = Span::days(1);
/// Occurrences that one question (count, forecast, comparison) enumerates at most: about a second
/// of work.
pub const OCCURRENCES_ENUMERATED_MAX: u64 = 1_000_000;
/// Occurrences that one answer lists at most.
pub const OCCURRENCES_LISTED_MAX: usize = 1_000;
/// Longest invoke target, in bytes.
pub const INVOKE_BYTES_MAX: usize = 4 << 10;
/// Most tasks that one task may start, those that they start counted.
pub const TEMPLATES_MAX: usize = 16;
/// Most handlers of one node: it names them in its heartbeats.
pub const HANDLERS_MAX: usize = 256;
/// Longest name of a handler, in bytes.
pub const HANDLER_BYTES_MAX: usize = 128;
/// Most arguments of an invoke target.
pub const INVOKE_ARGS_MAX: usize = 64;
/// Group of a schedule whose id names none, as in Quartz.
pub const SCHEDULE_GROUP_DEFAULT: &str = "DEFAULT";
/// Longest name of a schedule, in bytes: its tasks' ids carry it with a version and an instant.
pub const SCHEDULE_NAME_BYTES_MAX: usize = 90;
/// Longest tag of a request to run or backfill, in bytes: its tasks' ids carry it.
pub const SCHEDULE_TAG_BYTES_MAX: usize = 20;
/// Most schedules of a cluster: they are all in memory.
pub const SCHEDULES_MAX: usize = 10_000;
/// Deleted schedules that are kept, for their ledgers; the oldest give way.
pub const SCHEDULES_DELETED_KEPT: usize = 1_000;
/// Largest definition of a schedule, in bytes.
pub const SCHEDULE_BYTES_MAX: usize = 64 << 10;
/// Bytes of the definitions of all schedules and their former versions, about: they are in memory.
pub const SCHEDULES_BYTES_MAX: usize = 128 << 20;
/// Versions of one schedule that are kept.
pub const VERSIONS_KEPT: usize = 30;
/// Versions of one schedule that may wait for the planner to get past them.
pub const VERSIONS_WAITING_MAX: usize = 60;
/// Lines of the ledger that all schedules keep together, about: 32 MB. What gives way stays
/// provable by its count and a sum of hashes.
pub const FIRES_KEPT: usize = 500_000;
/// Lines that one schedule keeps at least, and at most.
pub const FIRES_KEPT_LEAST: usize = 50;
/// See [`FIRES_KEPT_LEAST`].
pub const FIRES_KEPT_MOST: usize = 5_000;
/// Occurrences in one `Fire` at most, so that no fold holds the state for long.
pub const FIRE_MAX: usize = 1_024;
/// Most occurrences of one schedule that may wait for the run before them, and most that are
/// caught up with or backfilled at once.
pub const QUEUE_MAX: usize = 1_000;
/// Runs that are not over, of one schedule, that are told apart.
pub const RUNNING_MAX: usize = 1_000;
/// Occurrences that are started out of a queue in one fold at most.
pub const START_MAX: usize = 64;
/// How late an occurrence may begin unless its schedule says otherwise: Quartz's threshold.
pub const MISFIRE_DEFAULT: Span = Span::minutes(1);
/// An occurrence that is begun later than this is recorded as late.
pub const LATE_AFTER: Span = Span::seconds(1);
/// Distance between runs that are caught up with or backfilled, unless given.
pub const PACE_DEFAULT: Span = Span(100);
/// Runs that are caught up with unless given.
pub const CATCH_UP_MAX_DEFAULT: u32 = 100;
