"""What every suite measures with: rounds that alternate, the machine they ran on, and how it is written down."""
