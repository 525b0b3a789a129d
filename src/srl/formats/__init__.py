"""One file per public trajectory format, each turning it into `srl.records.Trajectory`."""
