//! What a long run is told, in the variable `SIMULATE`: `--seeds 500 --seconds 60 --jobs 2`.

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub from: u64,
    pub seeds: u64,
    pub seconds: u64,
    pub jobs: usize,
    /// Everything that happens is printed.
    pub words: bool,
}

impl Options {
    #[allow(clippy::disallowed_methods)] // A test has no settings.
    pub fn read() -> Options {
        Options::parse(&std::env::var("SIMULATE").unwrap_or_default())
    }

    fn parse(line: &str) -> Options {
        let mut options = Options {
            from: 1,
            seeds: 20,
            seconds: 60,
            jobs: 1,
            words: false,
        };
        let mut words = line.split_whitespace();
        while let Some(name) = words.next() {
            let mut number = || {
                let word = words.next().unwrap_or_default();
                let number = word.parse::<u64>();
                number.unwrap_or_else(|e| panic!("SIMULATE: {name} wants a number: {e}"))
            };
            match name {
                "--seed" => (options.from, options.seeds) = (number(), 1),
                "--from" => options.from = number(),
                "--seeds" => options.seeds = number(),
                "--seconds" => options.seconds = number(),
                "--jobs" => options.jobs = number().max(1) as usize,
                "--words" => options.words = true,
                _ => panic!(
                    "SIMULATE: {name:?} is unknown; there are --seed, --from, --seeds, --seconds, \
                     --jobs, --words"
                ),
            }
        }
        options
    }
}

#[test]
fn options_are_read() {
    let options = Options::parse("--seeds 5 --from 3 --seconds 60 --jobs 2 --words");
    let expected = Options {
        from: 3,
        seeds: 5,
        seconds: 60,
        jobs: 2,
        words: true,
    };
    assert_eq!(options, expected);
    assert_eq!(Options::parse("--seed 9").from, 9);
    assert_eq!(Options::parse("--seed 9").seeds, 1);
}
