//! The invoke target: `bean.method("a", 'b', true, 2L, 3D, 4)`, a handler's name and typed
//! arguments.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

use super::limits::{INVOKE_ARGS_MAX, INVOKE_BYTES_MAX};

/// What a schedule may call by name.
///
/// ```text
/// target = name [ "(" [ argument { "," argument } ] ")" ]
/// name   = word "." word { "." word }         demoTask.run, com.shop.Report.run
/// ```
///
/// Arguments are strings in `"` or `'` (escapes: `\\ \" \' \n \r \t \b \f \/ \u00e9`), `true` and
/// `false`, `4` (32 bits), `2L` (64 bits), `3D` and `2.5e3D` (floating point). Without parentheses
/// there are none.
///
/// ```
/// use horolog::model::{Argument, Invoke};
///
/// let target: Invoke = r#"demoTask.run("a, b", 2L, true)"#.parse()?;
/// assert_eq!((target.bean(), target.method()), ("demoTask", "run"));
/// assert_eq!(target.arguments()[1], Argument::Long(2));
///
/// let refused = "demoTask.run(1, 3000000000)".parse::<Invoke>().unwrap_err();
/// assert_eq!(
///     refused.to_string(),
///     "column 17: 3000000000 does not fit into 32 bits; write 3000000000L for 64"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Invoke {
    /// `bean.method`.
    name: String,
    arguments: Vec<Argument>,
}

/// A typed argument of an [`Invoke`].
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    Text(String),
    Bool(bool),
    /// `4`
    Int(i32),
    /// `2L`
    Long(i64),
    /// `3D`; never infinite.
    Double(f64),
}

/// Why a text is no invoke target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {what}")]
pub struct InvokeError {
    /// Counted in characters, from 1.
    pub column: usize,
    /// What is wrong there, and what to write.
    pub what: String,
}

impl Invoke {
    /// The part before the last dot, such as `demoTask` or `com.shop.Report`.
    pub fn bean(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(bean, _)| bean)
    }

    /// The part behind the last dot.
    pub fn method(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(_, method)| method)
    }

    /// Both parts: what handlers are registered under.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn arguments(&self) -> &[Argument] {
        &self.arguments
    }
}

impl std::str::FromStr for Invoke {
    type Err = InvokeError;

    fn from_str(text: &str) -> Result<Invoke, InvokeError> {
        if text.len() > INVOKE_BYTES_MAX {
            return Err(InvokeError {
                column: 1,
                what: format!("{} bytes; at most {INVOKE_BYTES_MAX} are taken", text.len()),
            });
        }
        let mut reader = Reader { text, at: 0 };
        let name = reader.name()?;
        let arguments = match reader.take('(') {
            true => reader.arguments()?,
            false => Vec::new(),
        };
        reader.skip_space();
        match reader.peek() {
            None => Ok(Invoke { name, arguments }),
            Some(c) => Err(reader.wrong(format!("{c:?} where nothing may follow"))),
        }
    }
}

/// A place in a text.
struct Reader<'a> {
    text: &'a str,
    /// In bytes.
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Takes a character, with space before it.
    fn take(&mut self, wanted: char) -> bool {
        self.skip_space();
        let found = self.peek() == Some(wanted);
        if found {
            self.next();
        }
        found
    }

    fn taken_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// An error at a byte.
    fn wrong_at(&self, at: usize, what: impl Into<String>) -> InvokeError {
        InvokeError {
            column: self.text[..at].chars().count() + 1,
            what: what.into(),
        }
    }

    fn wrong(&self, what: impl Into<String>) -> InvokeError {
        self.wrong_at(self.at, what)
    }

    /// What stands here, for an error.
    fn found(&self) -> String {
        self.peek()
            .map_or("the end".to_owned(), |c| format!("{c:?}"))
    }

    fn name(&mut self) -> Result<String, InvokeError> {
        self.skip_space();
        let start = self.at;
        loop {
            let word = self.taken_while(|c| c.is_alphanumeric() || c == '_' || c == '$');
            if word.is_empty() || word.starts_with(char::is_numeric) {
                self.at -= word.len();
                let what = format!(
                    "{} where a name must begin; write bean.method",
                    self.found()
                );
                return Err(self.wrong(what));
            }
            if self.peek() != Some('.') {
                break;
            }
            self.next();
        }
        let name = &self.text[start..self.at];
        match name.contains('.') {
            true => Ok(name.to_owned()),
            false => Err(self.wrong_at(
                start,
                format!("{name} alone names no method; write bean.method"),
            )),
        }
    }

    /// What follows the opening parenthesis.
    fn arguments(&mut self) -> Result<Vec<Argument>, InvokeError> {
        let mut arguments = Vec::new();
        if self.take(')') {
            return Ok(arguments);
        }
        loop {
            self.skip_space();
            if arguments.len() == INVOKE_ARGS_MAX {
                let what = format!("more than {INVOKE_ARGS_MAX} arguments");
                return Err(self.wrong(what));
            }
            arguments.push(self.argument()?);
            if self.take(')') {
                return Ok(arguments);
            }
            if !self.take(',') {
                let what = format!("{} where a comma or ) must follow", self.found());
                return Err(self.wrong(what));
            }
        }
    }

    fn argument(&mut self) -> Result<Argument, InvokeError> {
        if let Some(quote @ ('"' | '\'')) = self.peek() {
            return self.text(quote).map(Argument::Text);
        }
        let start = self.at;
        let word =
            self.taken_while(|c| !c.is_whitespace() && !matches!(c, ',' | ')' | '(' | '"' | '\''));
        if word.is_empty() {
            let what = format!("{} where an argument must stand", self.found());
            return Err(self.wrong(what));
        }
        typed(word).map_err(|what| self.wrong_at(start, what))
    }

    /// A string, from its quote on.
    fn text(&mut self, quote: char) -> Result<String, InvokeError> {
        let start = self.at;
        self.next();
        let mut text = String::new();
        loop {
            let at = self.at;
            match self.next() {
                None => {
                    return Err(
                        self.wrong_at(start, format!("a string without its closing {quote}"))
                    );
                }
                Some(c) if c == quote => return Ok(text),
                Some('\\') => {
                    let c = self.escape().ok_or_else(|| {
                        let what = r#"no escape; those are \\ \" \' \n \r \t \b \f \/ and \u with four digits"#;
                        self.wrong_at(at, what)
                    })?;
                    text.push(c);
                }
                Some(c) => text.push(c),
            }
        }
    }

    /// What a backslash means with what follows it.
    fn escape(&mut self) -> Option<char> {
        Some(match self.next()? {
            c @ ('\\' | '"' | '\'' | '/') => c,
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => {
                let first = self.unit()?;
                // Beyond the first 65,536 characters two units make one.
                let second = match first {
                    0xd800..0xdc00 if self.rest().starts_with("\\u") => {
                        self.at += 2;
                        Some(self.unit()?)
                    }
                    _ => None,
                };
                let units = [Some(first), second].into_iter().flatten();
                let mut decoded = char::decode_utf16(units);
                let c = decoded.next()?.ok()?;
                return decoded.next().is_none().then_some(c);
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u16> {
        let digits = self.rest().get(..4)?;
        let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        let unit = hex
            .then(|| u16::from_str_radix(digits, 16).ok())
            .flatten()?;
        self.at += 4;
        Some(unit)
    }
}

/// An argument without quotes.
fn typed(word: &str) -> Result<Argument, String> {
    if word.eq_ignore_ascii_case("true") || word.eq_ignore_ascii_case("false") {
        return Ok(Argument::Bool(word.eq_ignore_ascii_case("true")));
    }
    let digits = |text: &str| {
        let text = text.strip_prefix('-').unwrap_or(text);
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
    };
    if let Some(number) = word.strip_suffix('L').filter(|number| digits(number)) {
        let long = number.parse().map(Argument::Long);
        return long.map_err(|_| format!("{word} does not fit into 64 bits; write it as a string"));
    }
    if digits(word) {
        let int = word.parse().map(Argument::Int);
        return int.map_err(|_| format!("{word} does not fit into 32 bits; write {word}L for 64"));
    }
    // Words such as NaN and inf are numbers to the standard library.
    let numeric = |text: &str| {
        text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
            && text.ends_with(|c: char| c.is_ascii_digit())
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b))
    };
    if let Some(number) = word.strip_suffix('D').filter(|number| numeric(number))
        && let Ok(double) = number.parse::<f64>()
    {
        return match double.is_finite() {
            true => Ok(Argument::Double(double)),
            false => Err(format!(
                "{word} is larger than the largest double, 1.7976931348623157e308D"
            )),
        };
    }
    if numeric(word) && word.parse::<f64>().is_ok() {
        return Err(format!("{word} has no type; write {word}D"));
    }
    Err(format!(
        "{word:?} is no argument; write \"text\", true, false, 4, 4L or 4D"
    ))
}

impl fmt::Display for Invoke {
    /// As it is parsed: strings in double quotes, parentheses only around arguments.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.arguments.is_empty() {
            return Ok(());
        }
        for (n, argument) in self.arguments.iter().enumerate() {
            write!(f, "{}{argument}", if n == 0 { "(" } else { ", " })?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Argument::Text(text) => {
                f.write_str("\"")?;
                for c in text.chars() {
                    match c {
                        '"' | '\\' => write!(f, "\\{c}")?,
                        '\n' => f.write_str("\\n")?,
                        '\r' => f.write_str("\\r")?,
                        '\t' => f.write_str("\\t")?,
                        // All of them are below 65,536.
                        c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                        c => write!(f, "{c}")?,
                    }
                }
                f.write_str("\"")
            }
            Argument::Bool(bool) => write!(f, "{bool}"),
            Argument::Int(int) => write!(f, "{int}"),
            Argument::Long(long) => write!(f, "{long}L"),
            Argument::Double(double) => write!(f, "{double:?}D"),
        }
    }
}

impl Serialize for Invoke {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Invoke {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Invoke, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::thorough::cases;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Invoke {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn the_old_grammar_is_understood() {
        use Argument::*;
        let text = |text: &str| Text(text.to_owned());
        for (target, name, arguments) in [
            ("demoTask.run", "demoTask.run", vec![]),
            ("demoTask.run()", "demoTask.run", vec![]),
            (" demoTask.run ( ) ", "demoTask.run", vec![]),
            (
                r#"bean.method("a", 'b', true, 2L, 3D, 4)"#,
                "bean.method",
                vec![
                    text("a"),
                    text("b"),
                    Bool(true),
                    Long(2),
                    Double(3.0),
                    Int(4),
                ],
            ),
            (
                "com.shop.Report.run(-1,-2L,-2.5e-3D,FALSE)",
                "com.shop.Report.run",
                vec![Int(-1), Long(-2), Double(-0.0025), Bool(false)],
            ),
            (
                r#"a.b("1, (2)", 'it\'s "so"', "é\u00e9\ud83d\ude00\n")"#,
                "a.b",
                vec![text("1, (2)"), text("it's \"so\""), text("éé😀\n")],
            ),
            ("a.b('')", "a.b", vec![text("")]),
            (
                "a.b(2147483647,-2147483648,9223372036854775807L)",
                "a.b",
                vec![Int(i32::MAX), Int(i32::MIN), Long(i64::MAX)],
            ),
            (
                "größe.prüfen$1(\"true\")",
                "größe.prüfen$1",
                vec![text("true")],
            ),
        ] {
            let found = parsed(target);
            assert_eq!(
                (found.name(), found.arguments()),
                (name, &arguments[..]),
                "{target}"
            );
        }
        assert_eq!(parsed("a.b.c.d(1)").bean(), "a.b.c");
        assert_eq!(parsed("a.b.c.d(1)").method(), "d");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_column() {
        for (target, told) in [
            (
                "",
                "column 1: the end where a name must begin; write bean.method",
            ),
            (
                "run",
                "column 1: run alone names no method; write bean.method",
            ),
            ("a.", "column 3: the end where a name must begin"),
            ("a..b", "column 3: '.' where a name must begin"),
            ("a.1b", "column 3: '1' where a name must begin"),
            ("a-b.c", "column 1: a alone names no method"),
            ("a.b c", "column 5: 'c' where nothing may follow"),
            ("a.b(1) x", "column 8: 'x' where nothing may follow"),
            ("a.b(", "column 5: the end where an argument must stand"),
            ("a.b(1", "column 6: the end where a comma or ) must follow"),
            ("a.b(1,)", "column 7: ')' where an argument must stand"),
            ("a.b(,1)", "column 5: ',' where an argument must stand"),
            ("a.b(1 2)", "column 7: '2' where a comma or ) must follow"),
            ("a.b(\"x)", "column 5: a string without its closing \""),
            ("é.b('x\\q')", "column 7: no escape"),
            ("a.b('\\u12')", "column 6: no escape"),
            ("a.b('\\ud83dx')", "column 6: no escape"),
            ("a.b('\\u+123')", "column 6: no escape"),
            (
                "a.b('x''y')",
                "column 8: '\\'' where a comma or ) must follow",
            ),
            (
                "a.b(2147483648)",
                "column 5: 2147483648 does not fit into 32 bits; write 2147483648L",
            ),
            ("a.b(9223372036854775808L)", "does not fit into 64 bits"),
            ("a.b(1e999D)", "1e999D is larger than the largest double"),
            ("a.b(1.5)", "column 5: 1.5 has no type; write 1.5D"),
            ("a.b(NaND)", "is no argument"),
            ("a.b(infD)", "is no argument"),
            ("a.b(+1)", "\"+1\" is no argument"),
            (
                "a.b(null)",
                "\"null\" is no argument; write \"text\", true, false, 4, 4L or 4D",
            ),
            ("a.b(1l)", "\"1l\" is no argument"),
        ] {
            let error = target.parse::<Invoke>().expect_err(target).to_string();
            assert!(error.contains(told), "{target}: {error}");
        }
        let many = format!("a.b({})", vec!["1"; INVOKE_ARGS_MAX + 1].join(","));
        assert!(
            many.parse::<Invoke>()
                .unwrap_err()
                .what
                .contains("more than 64 arguments")
        );
        let long = format!("a.b('{}')", "x".repeat(INVOKE_BYTES_MAX));
        assert!(
            long.parse::<Invoke>()
                .unwrap_err()
                .what
                .contains("at most 4096")
        );
        let error = serde_json::from_str::<Invoke>("\"a.b(x)\"").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("column 5: \"x\" is no argument"),
            "{error}"
        );
    }

    fn argument() -> impl Strategy<Value = Argument> {
        let double = any::<f64>().prop_filter("finite", |double| double.is_finite());
        prop_oneof![
            any::<String>().prop_map(Argument::Text),
            "[\"'\\\\,()\u{0}-\u{1f}é😀]{0,9}".prop_map(Argument::Text),
            any::<bool>().prop_map(Argument::Bool),
            any::<i32>().prop_map(Argument::Int),
            any::<i64>().prop_map(Argument::Long),
            double.prop_map(Argument::Double),
        ]
    }

    proptest! {
        #![proptest_config(cases(500))]

        #[test]
        fn what_is_printed_is_parsed(
            name in "[a-zé_$][a-z0-9é_$]{0,5}(\\.[a-z_$][a-z0-9]{0,5}){1,3}",
            arguments in prop::collection::vec(argument(), 0..6),
        ) {
            let target = Invoke { name, arguments };
            let text = target.to_string();
            prop_assume!(text.len() <= INVOKE_BYTES_MAX);
            prop_assert_eq!(text.parse::<Invoke>(), Ok(target.clone()), "{}", text);
            let json = serde_json::to_string(&target).unwrap();
            prop_assert_eq!(serde_json::from_str::<Invoke>(&json).unwrap(), target);
        }

        #[test]
        fn no_text_panics(text in "[a-c.(\"'\\\\ ,1L9D\\-eu0té)]{0,24}|.{0,40}") {
            if let Err(error) = text.parse::<Invoke>() {
                prop_assert!(error.column <= text.chars().count() + 1, "{}: {}", text, error);
            }
        }
    }
}
