"""`python -m fleet_executor`. The process that speaks with Ray loads it while this one loads the rest."""

from fleet_executor import driver

if __name__ == "__main__":
    begun = driver.begin()
    from fleet_executor.main import main

    raise SystemExit(main(begun))
