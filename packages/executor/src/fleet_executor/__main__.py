from fleet_executor.main import main

raise SystemExit(main())
