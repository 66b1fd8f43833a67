# Faults over real processes, and the model of the schedules.
# Labelled fault; see docs/reliability.md.
