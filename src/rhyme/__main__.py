"""``python -m rhyme``, which is also how torchrun starts it: ``torchrun -m rhyme train ...``."""

from rhyme.cli import main

if __name__ == "__main__":
    main()
