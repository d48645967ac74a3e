"""A small /proc of our own, whose numbers a test says."""

from pathlib import Path

STAT = "cpu  {user} 0 {system} {idle} {iowait} 0 0 0 0 0\ncpu0 1 2 3 4\nprocs_running 1\n"
MEMORY = (
    "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    {available} kB\nBuffers:          10 kB\n"
    "Cached:           90 kB\nSwapTotal:       200 kB\nSwapFree:        {swap} kB\n"
)
PROCESS = "{pid} ({name}) {state} 1 1 1 0 -1 0 0 0 0 0 {user} {system} 0 0 20 0 {threads} 0 {started} 4096 {pages} 0\n"


class Proc:
    """Below `root`; each method makes it say something else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/net").mkdir()
        (root / "sys/class/block/sda1").mkdir(parents=True)
        (root / "sys/class/block/sda1/partition").write_text("1\n")
        self.cpu(user=0, idle=0)
        self.memory(available=500)
        self.load(0.5)
        self.disk(read=0, written=0)
        self.network(received=0, sent=0)
        (root / "proc/self/mounts").write_text(
            "proc /proc proc rw 0 0\n/dev/sda1 / ext4 rw 0 0\nfar:/a /n\\040fs nfs rw 0 0\n"
        )

    def cpu(self, *, user: int, idle: int, system: int = 0, iowait: int = 0) -> None:
        text = STAT.format(user=user, system=system, idle=idle, iowait=iowait)
        (self.root / "proc/stat").write_text(text)

    def memory(self, *, available: int, swap: int = 200) -> None:
        (self.root / "proc/meminfo").write_text(MEMORY.format(available=available, swap=swap))

    def load(self, one: float) -> None:
        (self.root / "proc/loadavg").write_text(f"{one} 0.20 0.10 1/100 4000\n")

    def disk(self, *, read: int, written: int) -> None:
        line = f"5 0 {read} 1 7 0 {written} 1 0 500 0\n"
        text = f"   8 0 sda {line}   8 1 sda1 {line}   7 0 loop0 {line}"
        (self.root / "proc/diskstats").write_text(text)

    def network(self, *, received: int, sent: int) -> None:
        line = f"{received} 10 1 2 0 0 0 0 {sent} 20 3 4 0 0 0 0\n"
        (self.root / "proc/net/dev").write_text(f"Inter-|\n face |\n    lo: {line}  eth0: {line}")

    def process(self, pid: int, name: str, *, state: str = "S", ticks: int = 0, pages: int = 10) -> None:
        (self.root / "proc" / str(pid)).mkdir(exist_ok=True)
        text = PROCESS.format(
            pid=pid, name=name, state=state, user=ticks, system=0, threads=2, started=100 + pid, pages=pages
        )
        (self.root / "proc" / str(pid) / "stat").write_text(text)

    def end(self, pid: int) -> None:
        (self.root / "proc" / str(pid) / "stat").unlink()
        (self.root / "proc" / str(pid)).rmdir()
