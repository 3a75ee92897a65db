"""`python -m clockworker`: `clockworker-serve`, where the script is not on the path, or not of this interpreter."""

from clockworker.shards._cli import main

if __name__ == "__main__":
    main()
