//! What there is in an image: which files where, what runs, and as whom.

use std::{fs, path::PathBuf};

/// An image that containers can be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Programs of this machine, and where the image has them. The C library is there too, and nothing else.
    pub programs: Vec<(PathBuf, String)>,
    pub entrypoint: Vec<String>,
    pub user: u32,
    pub group: u32,
}

/// The image of this reference, wherever its registry is and whatever its tag: `holdfast` alone, as the Dockerfile makes it, with
/// the program that was built together with these tests.
pub fn find(reference: &str) -> Option<Image> {
    let name = reference.rsplit('/').next().unwrap_or_default();
    let name = name.split(['@', ':']).next().unwrap_or_default();
    (name == "holdfast").then(holdfast)
}

/// By the last stage of the Dockerfile.
fn holdfast() -> Image {
    let file = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Dockerfile")).unwrap();
    let of = |instruction: &str| {
        let mut lines = file.lines().filter_map(|line| line.strip_prefix(instruction));
        lines
            .next_back()
            .unwrap_or_else(|| panic!("the Dockerfile has no {instruction}"))
    };
    let place = of("COPY --from=build /src/holdfast ").trim().to_owned();
    let (user, group) = of("USER ").trim().split_once(':').expect("a user and a group");
    Image {
        programs: vec![(env!("CARGO_BIN_EXE_holdfast").into(), place)],
        entrypoint: serde_json::from_str(of("ENTRYPOINT ")).expect("an entrypoint as a list"),
        user: user.parse().expect("a number, so that a kubelet can see that it is not root"),
        group: group.parse().unwrap(),
    }
}
