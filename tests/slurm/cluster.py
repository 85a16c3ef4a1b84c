"""SLURM's own daemons as a cluster of one node with four GPUs, which are made up: character devices that do nothing."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

from ocsrflow.runtime.gpu_lease import MADE_UP
from support.servers import free_port
from support.waiting import wait_until

GPUS = 4
# Everything the daemons need lies in one folder, so that nothing of the machine's own SLURM is touched.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=100000,bf_interval=1,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
MinJobAge=600
KillWait=20
OverTimeLimit=0
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=32 RealMemory=256000 Gres=gpu:a100:{gpus}
PartitionName=cpu Nodes={host} Default=YES MaxTime=2-00:00:00
PartitionName=gpu Nodes={host} MaxTime=2-00:00:00
"""

# So that jobs lease what SLURM gave them, and tell what it was: the only sign of a GPU here is this list of names.
NVIDIA_SMI = """\
#!/bin/sh
echo "$(date +%s.%N) ${{SLURM_JOB_ID:-none}} ${{CUDA_VISIBLE_DEVICES:-none}}" >> {folder}/gpus-seen
for gpu in 0 1 2 3; do echo "GPU $gpu: made up (UUID: GPU-0000000$gpu-0000-0000-0000-000000000000)"; done
"""

# Snakemake's jobs start srun without the variables of SLURM: on a real cluster it finds its configuration in /etc.
SRUN = """\
#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""


class Cluster:
    """munged, slurmctld and slurmd, and an environment in which ``sbatch`` and the like talk to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            MADE_UP: "1",
        }

    def start(self) -> None:
        folder, host = self.folder, socket.gethostname().split(".")[0]
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir(parents=True)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        (folder / "slurm.conf").write_text(
            SLURM_CONF.format(folder=folder, host=host, ports=[free_port(), free_port()], gpus=GPUS)
        )
        for gpu in range(GPUS):
            os.mknod(folder / f"gpu{gpu}", stat.S_IFCHR | 0o666, os.makedev(1, 3))  # as /dev/null
        (folder / "gres.conf").write_text(f"Name=gpu Type=a100 File={folder}/gpu[0-{GPUS - 1}]\n")
        scripts = {"nvidia-smi": NVIDIA_SMI.format(folder=folder)}
        scripts["srun"] = SRUN.format(folder=folder, srun=shutil.which("srun"))
        for name, text in scripts.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        munge = ["key-file", "socket", "pid-file", "log-file", "seed-file"]
        paths = [key, *(folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed"))]
        options = [f"--{name}={path}" for name, path in zip(munge, paths, strict=True)]
        self._daemon("munged", "--foreground", "--force", *options)
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D", "-N", host)

        def idle() -> bool:
            return self.run("sinfo", "--noheader", "--format=%T", check=False).strip() == "idle"

        wait_until(idle, "an idle node", details=self.logs)

    def logs(self) -> str:
        """What the daemons said."""
        paths = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}" for path in paths)

    def queue(self) -> str:
        """The jobs that have not ended."""
        return self.run("squeue", "--noheader", "--states=PENDING,RUNNING,COMPLETING", check=False).strip()

    def _daemon(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}.out", "wb") as out:
            self._daemons.append(
                subprocess.Popen(command, stdout=out, stderr=out, env=self.env, start_new_session=True)
            )

    def run(self, *command: str, check: bool = True) -> str:
        """What one of SLURM's commands prints."""
        run = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        assert run.returncode == 0 or not check, run.stderr
        return run.stdout

    def stop(self) -> None:
        self.run("scancel", "--me", "--full", check=False)
        end = time.monotonic() + 30  # seconds; slurmd, which ends the jobs, must not go before them
        while self.run("squeue", "--noheader", "--states=RUNNING,COMPLETING", check=False) and time.monotonic() < end:
            time.sleep(0.3)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
