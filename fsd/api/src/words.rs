//! Texts of the operating system as Docker's clients know them.

/// Errors of the operating system as Go writes them: without their number, in lower case.
///
/// ```
/// let text = "open /x: No such file or directory (os error 2)";
/// assert_eq!(fsd_api::words::of_system(text), "open /x: no such file or directory");
/// ```
pub fn of_system(text: &str) -> String {
    let mut words = text.to_owned();
    while let Some(start) = words.find(" (os error ") {
        let Some(length) = words[start..].find(')') else { break };
        words.replace_range(start..=start + length, "");
        let begin = words[..start].rfind(": ").map_or(0, |at| at + 2);
        if let Some(first) = words[begin..].chars().next() {
            words.replace_range(begin..begin + first.len_utf8(), &first.to_lowercase().to_string());
        }
    }
    words
}
