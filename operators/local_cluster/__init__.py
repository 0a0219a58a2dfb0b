"""A Ray head on this machine: checked beforehand, started, watched, and stopped without leaving anything.

Ray's own `ray stop` ends every Ray process of the machine and leaves Serve's HAProxy behind; somebody who
tries Tidemill beside other work needs neither. So the cluster is ours from the first process to the last.
"""
