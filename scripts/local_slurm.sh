#!/usr/bin/env bash
# A real one-node Slurm on this machine, for tests: local_slurm.sh start|stop [FOLDER]
# Needs root and Debian's slurm-wlm and munge (apt-get install slurm-wlm munge). Everything it writes lies below FOLDER;
# `start` prints the line that a shell evaluates to use it.
set -euo pipefail
action=${1:-}
folder=$(realpath -m "${2:-${TMPDIR:-/tmp}/isometry-slurm}")
host=$(hostname -s)
cores=$(env -u OMP_NUM_THREADS nproc) # which nproc would take for the number of cores

stop() {
  for daemon in slurmd slurmctld munged; do
    if [ -f "$folder/$daemon.pid" ]; then kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true; fi
  done
  sleep 1
  rm -rf "$folder"
}

start() {
  for program in munged slurmctld slurmd; do
    if ! command -v $program >/dev/null && [ ! -x /usr/sbin/$program ]; then
      echo "local_slurm.sh: no $program here; apt-get install slurm-wlm munge" >&2
      exit 3
    fi
  done
  export PATH=$PATH:/usr/sbin
  if [ -f "$folder/slurm.conf" ] && SLURM_CONF=$folder/slurm.conf sinfo -h -o %t 2>/dev/null | grep -q .; then
    echo "export SLURM_CONF=$folder/slurm.conf" # it runs already
    exit 0
  fi
  mkdir -p "$folder"/{state,spool,munge}
  chmod 755 "$folder" "$folder/munge"
  dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none
  chmod 600 "$folder/munge/key"
  munged --force --key-file "$folder/munge/key" --socket "$folder/munge/socket" --pid-file "$folder/munged.pid" \
    --log-file "$folder/munge/log" --seed-file "$folder/munge/seed" </dev/null >/dev/null 2>&1
  cat > "$folder/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmctldPort=${SLURM_TEST_PORT:-16817}
SlurmdPort=$((${SLURM_TEST_PORT:-16817} + 1))
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SchedulerParameters=sched_interval=1,bf_interval=1
MinJobAge=300
KillWait=5
MessageTimeout=20
NodeName=$host CPUs=$cores State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  export SLURM_CONF=$folder/slurm.conf
  # daemons must not keep the pipes of whoever reads this script's output
  slurmctld -f "$folder/slurm.conf" </dev/null >/dev/null 2>&1
  slurmd -f "$folder/slurm.conf" -N "$host" </dev/null >/dev/null 2>&1
  for _ in $(seq 60); do
    if sinfo -h -o %t 2>/dev/null | grep -q idle; then
      echo "export SLURM_CONF=$folder/slurm.conf"
      exit 0
    fi
    sleep 0.5
  done
  echo "local_slurm.sh: the node did not come up; see $folder/slurmctld.log and $folder/slurmd.log" >&2
  exit 4
}

case $action in
  start) start ;;
  stop) stop ;;
  *) echo "usage: local_slurm.sh start|stop [FOLDER]" >&2; exit 2 ;;
esac
