#!/usr/bin/env bash
# A SLURM of one node on the loopback address, for tests/test_slurm.py.
#   tests/one_node_slurm.sh start DIR    writes DIR/slurm.conf and starts munge, slurmctld and slurmd (as root)
#   tests/one_node_slurm.sh stop DIR
set -euo pipefail
action=${1:?start or stop}
dir=$(realpath -m "${2:?a directory}")
node=$(hostname -s)
export SLURM_CONF=$dir/slurm.conf

if [ "$action" = stop ]; then
  scontrol shutdown
  exit
fi

mkdir -p "$dir/state" "$dir/spool"
cat > "$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
pgrep -x munged > /dev/null || service munge start > /dev/null
slurmctld
slurmd
for _ in $(seq 30); do
  sinfo --noheader --format=%t 2> /dev/null | grep -q idle && exit
  sleep 1
done
tail -n 20 "$dir"/*.log >&2
exit 1
