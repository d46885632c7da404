"""Names of our images: what is an older build of what, and what an image is built on. No buildah."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.images import BASE_IMAGE, GATEWAY, LIBRARY, OURS, REPOSITORY, RUNTIME, SECOND_RUNTIME, Builder, Image

OLD = f"{LIBRARY}{RUNTIME.name}:0.1.0-0123456789ab"
OLD_SECOND = f"{OLD}-0123456789ab"
# Of the same runtime, by another file.
OTHER_SECOND = f"{RUNTIME.full_name}-0123456789ab"
NOT_OURS = (f"{LIBRARY}jitney-runtimes:0.1.0-0123456789ab", f"quay.io/{RUNTIME.name}:0.1.0-0123456789ab", GATEWAY.full_name, BASE_IMAGE)


def superseded(image: Image) -> set[str]:
    names = (OLD, OLD_SECOND, OTHER_SECOND, RUNTIME.full_name, SECOND_RUNTIME.full_name, *NOT_OURS)
    return {name for name in names if image.supersedes(name)}


def test_a_new_build_leaves_no_older_one():
    """Nor what was built on it; what is built on the new one stays."""
    assert superseded(RUNTIME) == {OLD, OLD_SECOND}


def test_a_second_build_leaves_the_one_that_it_is_built_on():
    assert superseded(SECOND_RUNTIME) == {OLD, OLD_SECOND, OTHER_SECOND}


def test_a_second_build_has_the_firsts_name_and_a_tag_of_its_own():
    assert SECOND_RUNTIME.reference.startswith(f"{RUNTIME.reference}-")
    assert SECOND_RUNTIME.name == RUNTIME.name
    assert len({image.full_name for image in (*OURS, SECOND_RUNTIME)}) == len(OURS) + 1


class Recorder(Builder):
    """A buildah that has `there` and does nothing."""

    def __init__(self, folder: Path, there: set[str]) -> None:
        super().__init__(folder)
        self.there, self.commands = there, list[list[str]]()

    def has(self, reference: str) -> bool:
        return reference in self.there

    def _command(self, *arguments: str | Path) -> list[str]:
        self.commands.append([str(argument) for argument in arguments])
        return ["true"]


@pytest.mark.parametrize(
    ("there", "built"), [(set[str](), [RUNTIME, SECOND_RUNTIME]), ({RUNTIME.full_name}, [SECOND_RUNTIME])], ids=["nothing", "the first"]
)
def test_a_second_build_is_made_on_the_first(tmp_path: Path, there: set[str], built: list[Image]):
    builder = Recorder(tmp_path, there)
    builder.build(SECOND_RUNTIME)
    assert [command[command.index("--tag") + 1] for command in builder.commands] == [image.full_name for image in built]
    assert f"BASE_IMAGE={RUNTIME.full_name}" in builder.commands[-1]
    assert "--pull-never" in builder.commands[-1]
    if RUNTIME in built:
        assert f"BASE_IMAGE={BASE_IMAGE}" in builder.commands[0]


def test_a_second_build_has_its_own_file_in_it():
    """By which a container tells which it is."""
    text = (REPOSITORY / SECOND_RUNTIME.containerfile).read_text()
    assert f"COPY --chmod=0444 {SECOND_RUNTIME.containerfile} /etc/" in text
