//! What a run is asked for: `--minutes 60 --seed 7 --runs 10 --nemesis kill,pause --keep`, and
//! `--bug name` of nodes that are broken on purpose.

use crate::fault;

/// Which families there are is drawn with the seed.
pub const RANDOM: &str = "random";

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How long faults go on; a run takes longer by forming, healing and checking.
    pub seconds: u64,
    pub seed: u64,
    /// Families of faults; or `RANDOM` alone.
    pub nemeses: Vec<String>,
    /// So many runs, each with the next seed.
    pub runs: u64,
    /// Keep data directories even when all is well.
    pub keep: bool,
    /// The mistake that the nodes make, in a build that can make them.
    pub bug: Option<String>,
}

impl Options {
    /// # Errors
    /// What is not understood, and what would be.
    pub fn parse(text: &str, seed: u64) -> Result<Options, String> {
        let mut options = Options {
            seconds: 600,
            seed,
            nemeses: fault::families()
                .filter(|family| *family != fault::NETNS)
                .map(str::to_owned)
                .collect(),
            runs: 1,
            keep: false,
            bug: None,
        };
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            if word == "--keep" {
                options.keep = true;
                continue;
            }
            let value = words
                .next()
                .ok_or_else(|| format!("{word} needs a value"))?;
            let number = || value.parse::<u64>().map_err(|e| format!("{word}: {e}"));
            match word {
                "--minutes" => options.seconds = number()? * 60,
                "--seconds" => options.seconds = number()?,
                "--seed" => options.seed = number()?,
                "--runs" => options.runs = number()?,
                "--bug" => options.bug = Some(value.to_owned()),
                "--nemesis" => options.nemeses = value.split(',').map(str::to_owned).collect(),
                _ => {
                    return Err(format!(
                        "{word} is not known; there are --minutes, --seconds, --seed, --runs, --nemesis, --bug, --keep"
                    ));
                }
            }
        }
        let known: Vec<&str> = fault::families().collect();
        let is_random = options.nemeses[..] == [RANDOM];
        for name in options.nemeses.iter().filter(|_| !is_random) {
            if !known.contains(&name.as_str()) {
                return Err(format!(
                    "--nemesis {name}: there are {RANDOM} alone, {}",
                    known.join(", ")
                ));
            }
        }
        let has = |name: &str| options.nemeses.iter().any(|n| n == name);
        if let Some(wired) = fault::WIRED
            .iter()
            .find(|name| has(name) && has(fault::NETNS))
        {
            return Err(format!(
                "--nemesis {wired},{}: one is of wires, the other of networks without; choose one",
                fault::NETNS
            ));
        }
        Ok(options)
    }

    /// The words that ask for the same run.
    pub fn shown(&self) -> String {
        let bug = self.bug.as_ref();
        format!(
            "--seconds {} --seed {} --nemesis {}{}",
            self.seconds,
            self.seed,
            self.nemeses.join(","),
            bug.map_or(String::new(), |bug| format!(" --bug {bug}"))
        )
    }
}

#[test]
fn options_are_understood_and_shown() {
    let asked = "--minutes 2 --seed 7 --nemesis kill,pause --bug own-clock";
    let options = Options::parse(asked, 1).unwrap();
    assert_eq!((options.seconds, options.seed), (120, 7));
    assert_eq!(Options::parse(&options.shown(), 1).unwrap(), options);
    for (bad, named) in [
        ("--nemesis flood", "partition"),
        ("--nemesis random,kill", "alone"),
        ("--nemesis netns,kill,wire", "choose one"),
        ("--minutes", "value"),
        ("--minutes x", "--minutes"),
        ("--hours 2", "--minutes"),
    ] {
        let error = Options::parse(bad, 1).unwrap_err();
        assert!(error.contains(named), "{bad}: {error}");
    }
}
