"""`python -m sawyer`, and what a launcher of several processes starts: `torchrun --nproc-per-node 2 -m sawyer run a.yaml`."""

from sawyer.cli.main import main

if __name__ == "__main__":
    main()
