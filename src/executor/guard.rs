//! Where callbacks may go.
//!
//! A URL comes from a client; without a guard it could make this node call its own loopback,
//! the neighbours in a private network, or the cloud's metadata service. The rules are looked
//! at twice: when a task is submitted, so that the client hears of it, and on every address that
//! is about to be connected to, because a name may resolve to anything and differently each time.
//! Only the second one counts.

use std::net::{IpAddr, Ipv4Addr};

use super::address::{embedded, loose_v4, special};
use crate::model::Http;

/// One entry of `callbacks.allow` or `callbacks.deny`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// An address or a block of them.
    Block { base: IpAddr, bits: u8 },
    /// One host name, in lower case.
    Host(String),
    /// `*.suffix`: every name below the suffix, not the suffix itself.
    Below(String),
}

impl Rule {
    /// Reads `10.0.0.0/8`, `::1`, `hooks.example.org` or `*.example.org`.
    pub fn parse(text: &str) -> Result<Rule, String> {
        let wrong = || format!("{text:?} is neither a CIDR nor an address, a host or *.suffix");
        let text = text.trim();
        let (head, bits) = match text.split_once('/') {
            Some((head, bits)) => (head, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        if let Ok(base) = head.trim_matches(['[', ']']).parse::<IpAddr>() {
            let width = if base.is_ipv4() { 32 } else { 128 };
            let bits = bits.unwrap_or(width);
            return if bits <= width {
                Ok(Rule::Block { base, bits })
            } else {
                Err(wrong())
            };
        }
        let name = |host: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !host.is_empty() && host.chars().all(fits) && !host.starts_with('.')
        };
        let host = normal(text);
        match host.strip_prefix("*.") {
            Some(suffix) if name(suffix) => Ok(Rule::Below(suffix.into())),
            None if bits.is_none() && name(&host) => Ok(Rule::Host(host)),
            _ => Err(wrong()),
        }
    }

    fn has_address(&self, ip: IpAddr) -> bool {
        match (self, ip) {
            (
                Rule::Block {
                    base: IpAddr::V4(base),
                    bits,
                },
                IpAddr::V4(ip),
            ) => {
                let shift = 32 - u32::from(*bits);
                let head = |ip: Ipv4Addr| u32::from(ip).checked_shr(shift).unwrap_or(0);
                head(*base) == head(ip)
            }
            (
                Rule::Block {
                    base: IpAddr::V6(base),
                    bits,
                },
                IpAddr::V6(ip),
            ) => {
                let shift = 128 - u32::from(*bits);
                let head = |ip: u128| ip.checked_shr(shift).unwrap_or(0);
                head(u128::from(*base)) == head(u128::from(ip))
            }
            _ => false,
        }
    }

    /// `host` is in its normal form.
    fn has_host(&self, host: &str) -> bool {
        match self {
            Rule::Block { .. } => false,
            Rule::Host(name) => name == host,
            Rule::Below(suffix) => host
                .strip_suffix(suffix.as_str())
                .is_some_and(|head| head.ends_with('.')),
        }
    }
}

/// The rules of one node. What is denied stays denied; what is allowed is an exception from the
/// addresses that are denied by themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    pub allow: Vec<Rule>,
    pub deny: Vec<Rule>,
    /// Everything is allowed that is not denied explicitly: a node that only its own machine
    /// can talk to.
    pub open: bool,
}

impl Guard {
    /// Everything goes.
    pub fn open() -> Guard {
        Guard {
            open: true,
            ..Guard::default()
        }
    }

    /// What can be said of a URL before its name is resolved.
    pub fn check_url(&self, target: &Http) -> Result<(), String> {
        let uri: http::Uri = target
            .url
            .parse()
            .map_err(|_| format!("{:?} is not a URL", target.url))?;
        let host = uri
            .host()
            .ok_or_else(|| format!("{:?} has no host", target.url))?;
        if let Some(ip) = literal(host) {
            return self.check_addr(host, ip);
        }
        let host = normal(host);
        self.check_denied_host(&host)?;
        let local = host == "localhost" || host.ends_with(".localhost");
        if local && !self.open && !self.has_host(&host) && !self.allows_loopback() {
            return Err(format!(
                "{host} is a loopback name; allow it with the setting callbacks.allow"
            ));
        }
        Ok(())
    }

    /// Whether this address may be connected to for this host.
    pub fn check_addr(&self, host: &str, ip: IpAddr) -> Result<(), String> {
        let host = normal(host);
        self.check_denied_host(&host)?;
        let inner: Vec<IpAddr> = embedded(ip).into_iter().map(IpAddr::V4).collect();
        let faces = || inner.iter().copied().chain([ip]);
        if faces().any(|face| self.deny.iter().any(|rule| rule.has_address(face))) {
            return Err(format!("address {ip} is denied by callbacks.deny"));
        }
        if self.open || self.has_host(&host) {
            return Ok(());
        }
        let allowed = |face: IpAddr| {
            self.allow
                .iter()
                .any(|rule| rule.has_address(face) || rule.has_address(ip))
        };
        match faces().find_map(|face| special(face).filter(|_| !allowed(face))) {
            None => Ok(()),
            Some(kind) => Err(format!(
                "address {ip} is {kind}; allow it with the setting callbacks.allow"
            )),
        }
    }

    fn check_denied_host(&self, host: &str) -> Result<(), String> {
        if self.deny.iter().any(|rule| rule.has_host(host)) {
            return Err(format!("{host} is denied by callbacks.deny"));
        }
        Ok(())
    }

    fn has_host(&self, host: &str) -> bool {
        self.allow.iter().any(|rule| rule.has_host(host))
    }

    /// A name such as `localhost` may pass when the address behind it may.
    fn allows_loopback(&self) -> bool {
        let loopback: [IpAddr; 2] = [
            Ipv4Addr::LOCALHOST.into(),
            std::net::Ipv6Addr::LOCALHOST.into(),
        ];
        self.allow
            .iter()
            .any(|rule| loopback.iter().any(|ip| rule.has_address(*ip)))
    }
}

/// The address that a host is, in any spelling that some resolver would take for one.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.trim_matches(['[', ']']);
    bare.parse()
        .ok()
        .or_else(|| loose_v4(bare.trim_end_matches('.')).map(IpAddr::V4))
}

fn normal(host: &str) -> String {
    host.trim_matches(['[', ']'])
        .trim_end_matches('.')
        .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allow: &[&str], deny: &[&str]) -> Guard {
        let rules = |texts: &[&str]| texts.iter().map(|t| Rule::parse(t).unwrap()).collect();
        Guard {
            allow: rules(allow),
            deny: rules(deny),
            open: false,
        }
    }

    fn url(guard: &Guard, url: &str) -> Result<(), String> {
        guard.check_url(&Http {
            url: url.into(),
            ..Http::default()
        })
    }

    #[test]
    fn every_spelling_of_an_inner_address_is_denied() {
        let closed = Guard::default();
        for bad in [
            "http://127.0.0.1/",
            "http://127.1:8080/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://0/",
            "http://127.0.0.1./",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:a00:1]/",
            "http://[64:ff9b::a00:1]/",
            "http://[2002:a00:1::]/",
            "http://169.254.169.254/latest/meta-data/",
            "http://[fd00:ec2::254]/",
            "http://localhost/",
            "http://LOCALHOST./",
            "http://a.localhost/",
        ] {
            let why = url(&closed, bad).expect_err(bad);
            assert!(why.contains("callbacks.allow"), "{bad}: {why}");
            assert_eq!(url(&Guard::open(), bad), Ok(()), "{bad}");
        }
        for good in [
            "http://example.org/",
            "https://8.8.8.8/",
            "http://[2606:4700::1111]:8080/",
        ] {
            assert_eq!(url(&closed, good), Ok(()), "{good}");
        }
    }

    #[test]
    fn allowing_is_by_block_or_by_name() {
        let guard = guard(&["10.1.0.0/16", "*.svc.local", "hooks", "127.0.0.1"], &[]);
        let check = |host: &str, ip: &str| guard.check_addr(host, ip.parse().unwrap()).is_ok();
        assert!(check("10.1.2.3", "10.1.2.3"));
        assert!(!check("10.2.0.0", "10.2.0.0"));
        assert!(check("a.svc.local", "10.9.9.9"));
        assert!(!check("svc.local", "10.9.9.9"));
        assert!(!check("evilsvc.local", "10.9.9.9"));
        assert!(check("HOOKS.", "192.168.1.1"));
        assert!(
            check("x", "::ffff:10.1.0.1"),
            "the mapped form of an allowed address"
        );
        assert!(!check("x", "::ffff:10.2.0.1"));
        assert_eq!(url(&guard, "http://localhost/"), Ok(()));
        assert!(url(&guard, "http://127.0.0.2/").is_err());
    }

    #[test]
    fn denying_wins_even_when_open() {
        let mut guard = guard(
            &["10.0.0.0/8", "*.example.org"],
            &["10.0.0.1", "bad.example.org"],
        );
        for open in [false, true] {
            guard.open = open;
            let check = |host: &str, ip: &str| guard.check_addr(host, ip.parse().unwrap());
            let why = check("x", "10.0.0.1").unwrap_err();
            assert_eq!(why, "address 10.0.0.1 is denied by callbacks.deny");
            assert!(check("x", "::ffff:10.0.0.1").is_err());
            assert!(check("bad.example.org", "8.8.8.8").is_err());
            assert!(url(&guard, "https://BAD.example.org/").is_err());
            assert!(check("x", "10.0.0.2").is_ok());
        }
    }

    #[test]
    fn everything_can_be_a_block() {
        let all = guard(&["0.0.0.0/0", "::/0"], &[]);
        for ip in ["127.0.0.1", "::1", "255.255.255.255", "fd00:ec2::254"] {
            assert_eq!(all.check_addr("x", ip.parse().unwrap()), Ok(()), "{ip}");
        }
        let none = guard(&[], &["0.0.0.0/0"]);
        assert!(none.check_addr("x", "8.8.8.8".parse().unwrap()).is_err());
        assert!(
            none.check_addr("x", "2606:4700::1111".parse().unwrap())
                .is_ok()
        );
    }

    #[test]
    fn rules_are_read_or_refused() {
        assert_eq!(Rule::parse("*.A.org"), Ok(Rule::Below("a.org".into())));
        assert_eq!(Rule::parse("A.org."), Ok(Rule::Host("a.org".into())));
        assert!(matches!(
            Rule::parse("[::1]"),
            Ok(Rule::Block { bits: 128, .. })
        ));
        for bad in [
            "",
            "*",
            "*.",
            "10.0.0.0/33",
            "::/129",
            "a/8",
            "a b",
            "http://a",
            "*.a/8",
            ".a",
            "10.0.0.0/x",
        ] {
            assert!(Rule::parse(bad).is_err(), "{bad}");
        }
    }
}
