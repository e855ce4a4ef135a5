//! What a node's metrics page says.

/// A gauge without labels.
pub fn gauge(page: &str, name: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    page.lines().find_map(value)
}

/// How many observations of a histogram without labels lie above one of its bounds, written as
/// the page writes it.
pub fn above(page: &str, name: &str, bound: &str) -> Option<u64> {
    let up_to = |bound: &str| gauge(page, &format!("{name}_bucket{{le=\"{bound}\"}}"));
    up_to("+Inf")?.checked_sub(up_to(bound)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_above_a_bound() {
        let page =
            "# TYPE a histogram\na_bucket{le=\"0.005\"} 7\na_bucket{le=\"+Inf\"} 9\nb 3\nbc 4\n";
        assert_eq!(above(page, "a", "0.005"), Some(2));
        assert_eq!(above(page, "a", "0.05"), None);
        assert_eq!((gauge(page, "b"), gauge(page, "c")), (Some(3), None));
    }
}
