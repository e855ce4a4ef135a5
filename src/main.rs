//! The binary: everything is in the library.
#![forbid(unsafe_code)]

/// What a checkpoint frees goes back to the system. The C library's allocator kept the peak: a
/// generation is allocated by the fold and freed by whoever wrote it, in pieces among others.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    if let Err(why) = horolog::bugs::check() {
        eprintln!("{why}");
        return std::process::ExitCode::from(2);
    }
    horolog::cli::run()
}
