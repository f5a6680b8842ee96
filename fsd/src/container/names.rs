//! Names for containers that were given none.

use fs_base::{Error, Result};

/// How a name may begin.
const FIRST: &str = "\
    agile amber ample apt ardent balmy basic blithe bold brave breezy bright brisk calm candid careful cheery \
    civil clear clever cosy crisp curious dapper daring deft eager early earnest easy elegant equal exact fair \
    fancy fast fine firm fleet fluent fond frank free fresh gentle glad good grand great handy happy hardy hearty \
    honest humble ideal jolly just keen kind lively loyal lucid lucky mellow merry mild modest neat nimble noble \
    open patient peppy placid plain polite prime proud quick quiet rapid ready robust serene sharp silent sincere \
    smart snug solid sound spry steady stoic sunny swift tidy trim true upbeat vivid warm wise witty zesty";
/// How it ends: people who made computing and science.
const LAST: &str = "\
    abel agnesi allen archimedes babbage backus banach bardeen bartik bell bernoulli bohr boole borg bose brahe \
    brahmagupta carson carver cerf chandra clarke codd conway copernicus cori cray curie dahl darwin dijkstra \
    dirac einstein elion engelbart erdos euclid euler faraday fermat fermi feynman floyd franklin galileo galois \
    gauss germain goldberg goodall gosling haibt hamilton hamming hawking heisenberg hertz hilbert hoare hodgkin \
    hopper hypatia jackson jang jemison joliot kalam kapitsa kare keller kepler khayyam kilby kirch knuth lamarr \
    lamport leavitt leibniz liskov lovelace maxwell mayer mccarthy mcclintock meitner mendel mendeleev milner \
    minsky mirzakhani moore morse napier nash naur neumann newton nightingale nobel noether noyce pascal pasteur \
    payne perlis pike planck poincare ptolemy raman ramanujan ride ritchie rosalind rubin sammet shannon shaw \
    sinoussi stallman sutherland swirles tesla tharp thompson torvalds turing vaughan villani volhard wescoff \
    wiles williams wilson wing wirth wozniak wright wu yalow yonath";

/// A new name; after some tries one with a number, so that there always is a free one.
pub fn random(attempt: u32) -> Result<String> {
    let number = u64::from_str_radix(&fs_base::id::random_hex::<8>()?, 16).map_err(|_| Error::internal("random digits"))?;
    let first = pick(FIRST, number)?;
    let last = pick(LAST, number >> 16)?;
    let tail = if attempt < 3 { String::new() } else { format!("{}", number >> 44) };
    Ok(format!("{first}_{last}{tail}"))
}

fn pick(words: &'static str, number: u64) -> Result<&'static str> {
    let count = words.split_whitespace().count() as u64;
    words.split_whitespace().nth((number % count) as usize).ok_or_else(|| Error::internal("no words"))
}

/// A name that a person gave, without its slash.
pub fn checked(name: &str) -> Result<String> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    if fs_base::id::is_object_name(bare) {
        return Ok(bare.to_owned());
    }
    Err(Error::invalid(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_names_and_bad_ones_are_refused() {
        for attempt in 0..6 {
            let name = super::random(attempt).unwrap();
            assert_eq!(super::checked(&name).unwrap(), name);
        }
        assert_eq!(super::checked("/web").unwrap(), "web");
        let error = super::checked("a b").unwrap_err().to_string();
        assert_eq!(error, "Invalid container name (a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed");
    }
}
