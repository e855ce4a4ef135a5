//! Which addresses are not the public Internet, whatever clothes they wear.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of special address this is; `None` for a public one.
pub(super) fn special(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => special_v6(ip),
    }
}

fn special_v4(ip: Ipv4Addr) -> Option<&'static str> {
    match ip.octets() {
        // The cloud providers' metadata services; Azure's is a public address.
        [169, 254, 169, 254] | [100, 100, 100, 200] | [168, 63, 129, 16] => Some("metadata"),
        [0, ..] => Some("unspecified"),
        [127, ..] => Some("loopback"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some("private"),
        [169, 254, ..] => Some("link-local"),
        [100, 64..=127, ..] => Some("shared (carrier-grade NAT)"),
        [192, 0, 0, _] | [198, 18..=19, ..] => Some("reserved"),
        [224..=239, ..] => Some("multicast"),
        [240..=255, ..] => Some("reserved"),
        _ => None,
    }
}

fn special_v6(ip: Ipv6Addr) -> Option<&'static str> {
    if ip.is_unspecified() {
        return Some("unspecified");
    }
    if ip.is_loopback() {
        return Some("loopback");
    }
    match ip.segments() {
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254] => Some("metadata"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xfec0..=0xfeff, ..] => Some("site-local"),
        [0xfc00..=0xfdff, ..] => Some("unique-local"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        [0x0100, 0, 0, 0, ..] => Some("discarded"),
        // Local-use NAT64: what is behind it is the operator's own network.
        [0x0064, 0xff9b, 1, ..] => Some("private"),
        _ => None,
    }
}

/// The IPv4 addresses that an IPv6 address stands for, by any of the ways to embed one: packets
/// to it may end there.
pub(super) fn embedded(ip: IpAddr) -> Vec<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else {
        return Vec::new();
    };
    let s = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    let last = v4(s[6], s[7]);
    match s {
        // Mapped, and its translated form.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => vec![last],
        // Compatible; `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, ..] if s[6] != 0 || s[7] > 1 => vec![last],
        // NAT64.
        [0x0064, 0xff9b, 0, 0, 0, 0, ..] | [0x0064, 0xff9b, 1, ..] => vec![last],
        // 6to4.
        [0x2002, high, low, ..] => vec![v4(high, low)],
        // Teredo: the server, and the client with its bits turned over.
        [0x2001, 0, high, low, ..] => vec![v4(high, low), v4(!s[6], !s[7])],
        // ISATAP, under any prefix.
        [_, _, _, _, 0 | 0x0200, 0x5efe, ..] => vec![last],
        _ => Vec::new(),
    }
}

/// Reads a host as the resolver's `inet_aton` would: `127.1`, `0x7f.1`, `2130706433`, `0177.0.0.1`.
pub(super) fn loose_v4(host: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u64> = host.split('.').map(loose_number).collect::<Option<_>>()?;
    let (last, heads) = parts.split_last()?;
    if heads.len() > 3 || heads.iter().any(|part| *part > 255) {
        return None;
    }
    let room = 8 * (4 - heads.len() as u32);
    if last >> room != 0 {
        return None;
    }
    let high = heads
        .iter()
        .zip([24, 16, 8])
        .map(|(part, shift)| part << shift)
        .sum::<u64>();
    u32::try_from(high | last).ok().map(Ipv4Addr::from)
}

fn loose_number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_and_their_neighbours() {
        for (ip, kind) in [
            ("0.0.0.0", Some("unspecified")),
            ("0.1.2.3", Some("unspecified")),
            ("127.255.255.255", Some("loopback")),
            ("10.0.0.1", Some("private")),
            ("172.15.255.255", None),
            ("172.16.0.0", Some("private")),
            ("172.31.255.255", Some("private")),
            ("172.32.0.0", None),
            ("192.167.255.255", None),
            ("192.168.0.1", Some("private")),
            ("169.254.1.1", Some("link-local")),
            ("169.254.169.254", Some("metadata")),
            ("168.63.129.16", Some("metadata")),
            ("100.63.255.255", None),
            ("100.64.0.1", Some("shared (carrier-grade NAT)")),
            ("100.128.0.0", None),
            ("198.18.0.1", Some("reserved")),
            ("224.0.0.1", Some("multicast")),
            ("255.255.255.255", Some("reserved")),
            ("203.0.113.10", None),
            ("8.8.8.8", None),
            ("::", Some("unspecified")),
            ("::1", Some("loopback")),
            ("fe80::1", Some("link-local")),
            ("fc00::1", Some("unique-local")),
            ("fdff::1", Some("unique-local")),
            ("fd00:ec2::254", Some("metadata")),
            ("fec0::1", Some("site-local")),
            ("ff02::1", Some("multicast")),
            ("2606:4700::1111", None),
        ] {
            assert_eq!(special(ip.parse().unwrap()), kind, "{ip}");
        }
    }

    #[test]
    fn embedded_addresses_are_seen() {
        for ip in [
            "::ffff:127.0.0.1",
            "::ffff:0:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::127.0.0.1",
            "2002:7f00:1::1",
            "2001:0:0808:0808::80ff:fffe",
            "2001:db8::5efe:127.0.0.1",
            "2001:db8::200:5efe:127.0.0.1",
        ] {
            let found = embedded(ip.parse().unwrap());
            assert!(found.contains(&Ipv4Addr::LOCALHOST), "{ip} {found:?}");
        }
        for ip in ["::", "::1", "2606:4700::1111", "127.0.0.1"] {
            assert!(embedded(ip.parse().unwrap()).is_empty(), "{ip}");
        }
    }

    #[test]
    fn loose_forms_are_read_as_the_resolver_reads_them() {
        for host in [
            "127.0.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "127.1",
            "127.0.1",
            "0177.0.0.1",
            "017700000001",
            "0X7F.0x0.0.1",
        ] {
            assert_eq!(loose_v4(host), Some(Ipv4Addr::LOCALHOST), "{host}");
        }
        for host in [
            "",
            ".",
            "1.2.3.4.5",
            "256.1.1.1",
            "4294967296",
            "a",
            "0x",
            "08.1",
            "+1",
            "1.",
            "127.0.0.+1",
        ] {
            assert_eq!(loose_v4(host), None, "{host}");
        }
    }
}
