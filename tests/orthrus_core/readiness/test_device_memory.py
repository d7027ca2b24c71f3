"""Memory that a process may still take."""

from orthrus_core.readiness.device_memory import _available, _left_in_cgroups


def write(directory, **files) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(f"{text}\n")


def test_the_machine_says_what_is_available(tmp_path):
    write(tmp_path, meminfo="MemTotal:  900 kB\nMemAvailable:   300 kB")
    assert _available(tmp_path / "meminfo") == 300 * 1024


def test_limits_of_all_cgroups_above_count_and_droppable_file_pages_are_free(tmp_path):
    write(tmp_path, cgroup="0::/pod/box")
    write(tmp_path / "root/pod", memory__max=1000, memory__current=400, memory__stat="inactive_file 0")
    write(tmp_path / "root/pod/box", memory__max=800, memory__current=700, memory__stat="inactive_file 50")
    assert sorted(_left_in_cgroups(tmp_path / "root", tmp_path / "cgroup")) == [150, 600]


def test_a_cgroup_without_a_limit_says_nothing(tmp_path):
    write(tmp_path, cgroup="0::/box")
    write(tmp_path / "root/box", memory__max="max", memory__current=700, memory__stat="inactive_file 50")
    assert _left_in_cgroups(tmp_path / "root", tmp_path / "cgroup") == []


def test_the_first_version_of_cgroups_has_other_names(tmp_path):
    write(tmp_path, cgroup="5:cpu:/box\n4:memory:/box")
    files = {"memory__limit_in_bytes": 900, "memory__usage_in_bytes": 300}
    write(tmp_path / "root/memory/box", **files, memory__stat="inactive_file 1\ntotal_inactive_file 20")
    assert _left_in_cgroups(tmp_path / "root", tmp_path / "cgroup") == [620]
